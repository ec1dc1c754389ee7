"""The leases of replicas, and the index by which adoption finds the rows of the dead among those of the living."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and the index; drop the index that the new one stands for."""
    op.create_table(
        "tcc_replica",
        sa.Column("id", sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("format", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tcc_replica"),
    )
    op.create_index(
        "ix_tcc_transaction_owner",
        "tcc_transaction",
        ["owner", "wake_at"],
        sqlite_where=sa.text("wake_at IS NOT NULL"),
        postgresql_where=sa.text("wake_at IS NOT NULL"),
    )
    op.drop_index("ix_tcc_transaction_due", "tcc_transaction")
