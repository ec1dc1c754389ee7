"""The log's one table. The migrations make it; a test holds that they make exactly this.

Whoever changes it adds a revision to `migrations/versions`. The columns are those of `seam.Row`. Text compares by bytes
(SQLite's default), so that ids that differ in case or are prefixes of each other never touch.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    true,
)

VERSION_TABLE = "tcc_log_version"
"""Where the schema's revision stands: a name of our own, so that it can share a database with other Alembic users."""

metadata = MetaData()

transactions = Table(
    "tcc_transaction",
    metadata,
    Column("namespace", String(64), nullable=False),
    Column("gid", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("name", String, nullable=False),
    Column("owner", String(64), nullable=False),
    Column("wake_at", Double),
    Column("begun_at", Double, nullable=False),
    Column("decided_at", Double),
    Column("finished_at", Double),
    Column("attention", Boolean, nullable=False),
    Column("min_reader", Integer, nullable=False),
    Column("write_id", LargeBinary(16), nullable=False),
    Column("progress", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("namespace", "gid", name="pk_tcc_transaction"),
    CheckConstraint("version >= 1", name="ck_tcc_transaction_version"),
    CheckConstraint("length(body) + length(progress) <= 8388608", name="ck_tcc_transaction_payload"),
)

_columns = transactions.c

Index("ix_tcc_transaction_due", _columns.wake_at, sqlite_where=_columns.wake_at.is_not(None))
"""What recovery scans: it holds unfinished rows alone, so its size is that of the work at hand."""

Index("ix_tcc_transaction_begun", _columns.namespace, _columns.begun_at, _columns.gid)
Index("ix_tcc_transaction_state", _columns.namespace, _columns.state, _columns.begun_at, _columns.gid)
Index(
    "ix_tcc_transaction_attention",
    _columns.namespace,
    _columns.begun_at,
    _columns.gid,
    sqlite_where=_columns.attention.is_(true()),
)
