"""The log's tables: the transactions, and the leases of the replicas that work on them.

The migrations make them; a test holds that they make exactly this, so whoever changes something here adds a revision to
`migrations/versions`. The columns of a transaction are those of `seam.Row`. Ids compare by bytes (SQLite's default, and
collation C on PostgreSQL, whose other collations change with the operating system under an index's feet).
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
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


def _id(length: int = 64) -> String:
    return String(length).with_variant(String(length, collation="C"), "postgresql")


transactions = Table(
    "tcc_transaction",
    metadata,
    Column("namespace", _id(), nullable=False),
    Column("gid", _id(), nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", _id(16), nullable=False),
    Column("name", String, nullable=False),
    Column("owner", _id(), nullable=False),
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

replicas = Table(
    "tcc_replica",
    metadata,
    Column("id", _id(), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("format", Integer, nullable=False),
    PrimaryKeyConstraint("id", name="pk_tcc_replica"),
)
"""One row a replica that shares the log: until when it lives, by the database's clock, and the format that it reads.

A replica without a row is dead. The embedded log has a file lock instead, and no rows here.
"""

_columns = transactions.c
_unfinished = _columns.wake_at.is_not(None)

Index(
    "ix_tcc_transaction_owner",
    _columns.owner,
    _columns.wake_at,
    _columns.namespace,
    _columns.gid,
    _columns.min_reader,
    sqlite_where=_unfinished,
    postgresql_where=_unfinished,
)
"""What adoption scans, in the order in which it takes rows: unfinished ones alone, so it is small.

With the format last, rows that this version cannot read are passed over without being fetched.
"""

Index("ix_tcc_transaction_begun", _columns.namespace, _columns.begun_at, _columns.gid)
Index("ix_tcc_transaction_state", _columns.namespace, _columns.state, _columns.begun_at, _columns.gid)
Index(
    "ix_tcc_transaction_attention",
    _columns.namespace,
    _columns.begun_at,
    _columns.gid,
    sqlite_where=_columns.attention.is_(true()),
    postgresql_where=_columns.attention.is_(true()),
)
