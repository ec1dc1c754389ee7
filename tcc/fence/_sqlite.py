"""What makes SQLite transactions do what they say.

The driver's own transaction handling is switched off: with it, a released savepoint survives the rollback around it.
Transactions of the fence begin IMMEDIATE, since one that begins by reading cannot wait for its turn to write. Writers
of this process queue up in asyncio, in order, instead of polling the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from tcc.errors import UsageError
from tcc.fence._seam import FenceBusy

FENCED = "tcc_fenced"
"""Execution option of the connections on which the fence works."""


def prepare(engine: Engine, row_wait: float) -> None:
    """Sets an engine up before its first connection.

    Raises:
        UsageError: the database is in memory, where all transactions share one connection.
    """
    if isinstance(engine.pool, StaticPool) or engine.url.database in (None, "", ":memory:"):
        raise UsageError(
            f"{engine.url} is a database in memory, whose transactions share one connection: "
            "name a file, or use MemoryFence"
        )

    @event.listens_for(engine, "connect")
    def configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        try:
            cursor.execute(f"PRAGMA busy_timeout = {int(row_wait * 1000)}")
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
        finally:
            cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        fenced = connection.get_execution_options().get(FENCED)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if fenced else "BEGIN")


class WriterQueue:
    """One writer of this process at a time, first come, first served.

    Args:
        wait: seconds in the queue after which a writer gives up.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._writer = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for the turn to write.

        Raises:
            FenceBusy: the queue did not move in time.
        """
        try:
            async with asyncio.timeout(self._wait):
                await self._writer.acquire()
        except TimeoutError:
            raise FenceBusy(f"other writers held the database for {self._wait:g} s") from None
        try:
            yield
        finally:
            self._writer.release()
