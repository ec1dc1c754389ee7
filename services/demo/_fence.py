"""What lies in a service's fence: read from its own database, behind the service's back. Works while it is dead."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


class FenceTable:
    """The fence's table in a database.

    Args:
        url: of the database, with an asyncio driver: `sqlite+aiosqlite:///bank-a.db`, `postgresql+asyncpg://...`.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    async def tried(self) -> int:
        """How many reservations are neither confirmed nor cancelled."""
        [(count,)] = await self._query("SELECT count(*) FROM tcc_fence WHERE state = 'TRIED'")
        return int(str(count))

    async def state(self, gid: str) -> str:
        """Of a transaction's branch; "" for nothing."""
        rows = await self._query("SELECT state FROM tcc_fence WHERE gid = :gid", gid=gid)
        return str(rows[0][0]) if rows else ""

    async def _query(self, sql: str, **parameters: str) -> list[tuple[object, ...]]:
        engine = create_async_engine(self._url)
        try:
            async with engine.connect() as connection:
                return [tuple(row) for row in await connection.execute(text(sql), parameters)]
        finally:
            await engine.dispose()
