"""The table of transactions and its indexes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _id(length: int = 64) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "tcc_transaction",
        sa.Column("namespace", _id(), nullable=False),
        sa.Column("gid", _id(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", _id(16), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("owner", _id(), nullable=False),
        sa.Column("wake_at", sa.Double),
        sa.Column("begun_at", sa.Double, nullable=False),
        sa.Column("decided_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("attention", sa.Boolean, nullable=False),
        sa.Column("min_reader", sa.Integer, nullable=False),
        sa.Column("write_id", sa.LargeBinary(16), nullable=False),
        sa.Column("progress", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "gid", name="pk_tcc_transaction"),
        sa.CheckConstraint("version >= 1", name="ck_tcc_transaction_version"),
        sa.CheckConstraint("length(body) + length(progress) <= 8388608", name="ck_tcc_transaction_payload"),
    )
    op.create_index(
        "ix_tcc_transaction_due",
        "tcc_transaction",
        ["wake_at"],
        sqlite_where=sa.text("wake_at IS NOT NULL"),
        postgresql_where=sa.text("wake_at IS NOT NULL"),
    )
    op.create_index("ix_tcc_transaction_begun", "tcc_transaction", ["namespace", "begun_at", "gid"])
    op.create_index("ix_tcc_transaction_state", "tcc_transaction", ["namespace", "state", "begun_at", "gid"])
    op.create_index(
        "ix_tcc_transaction_attention",
        "tcc_transaction",
        ["namespace", "begun_at", "gid"],
        sqlite_where=sa.text("attention IS 1"),
        postgresql_where=sa.text("attention IS true"),
    )
