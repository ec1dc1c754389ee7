"""The fence's table. It lives in the service's own database, so its shape is part of the contract.

`METADATA` is for Alembic (`target_metadata = [your_metadata, tcc.fence.METADATA]`), `ddl` for everybody else.
Times are unix milliseconds: they read the same on every database.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Dialect, LargeBinary, MetaData, SmallInteger, String, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from tcc.errors import UsageError

METADATA: Final = MetaData()
"""The fence's table, apart from the service's own metadata."""

FENCE_TABLE: Final = Table(
    "tcc_fence",
    METADATA,
    Column("namespace", String(64), primary_key=True),
    Column("gid", String(64), primary_key=True),
    Column("branch", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("action", Text, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("reply", LargeBinary),
    Column("refusal_code", SmallInteger),
    Column("refusal_text", Text),
    Column("refusal_details", LargeBinary),
    Column("tried_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("updated_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""One row a branch; see CONTRACT.md, "Fence"."""

_DIALECTS: Final[dict[str, type[Dialect]]] = {"sqlite": sqlite.dialect, "postgresql": postgresql.dialect}


def ddl(dialect: str) -> str:
    """The CREATE TABLE statement, without a semicolon.

    Args:
        dialect: `sqlite` or `postgresql`.

    Raises:
        UsageError: another dialect.
    """
    try:
        chosen = _DIALECTS[dialect]()
    except KeyError:
        raise UsageError(f"the fence has no table for {dialect!r}: use one of {', '.join(_DIALECTS)}") from None
    return str(CreateTable(FENCE_TABLE, if_not_exists=True).compile(dialect=chosen)).strip()
