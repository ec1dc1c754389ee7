"""The index of unfinished rows in the full order in which adoption takes them: a batch goes on where the last ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index anew, with more columns."""
    op.drop_index("ix_tcc_transaction_owner", "tcc_transaction")
    op.create_index(
        "ix_tcc_transaction_owner",
        "tcc_transaction",
        ["owner", "wake_at", "namespace", "gid", "min_reader"],
        sqlite_where=sa.text("wake_at IS NOT NULL"),
        postgresql_where=sa.text("wake_at IS NOT NULL"),
    )
