"""What makes SQLite transactions do what they say.

The driver's own transaction handling is switched off: with it, a released savepoint survives the rollback around it.
Transactions of the fence begin IMMEDIATE, since one that begins by reading cannot wait for its turn to write. Writers
of this process queue up in asyncio, in order, instead of polling the file.

A cancelled visit (a caller that is gone, a handler's time that is over) must not leave a connection that holds the
write lock. So a statement under way is awaited to its end, and closing a connection is never interrupted.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

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
        _let_statements_end(connection.driver_connection)

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


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Does the work to its end; a cancellation that comes meanwhile is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


def _let_statements_end(driver: Any) -> None:
    """Makes a connection of aiosqlite wait, when it is cancelled, for the statement that its thread is at.

    Otherwise the connection is closed beside a statement that nobody fetches from, and SQLite keeps a transaction open,
    with the write lock, until the garbage collector finds that statement.
    """

    async def execute(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if not driver._running or driver._connection is None:
            raise ValueError("Connection closed")  # as aiosqlite words it: SQLAlchemy reads this
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        driver._tx.put_nowait((ended, partial(function, *args, **options)))
        cancelled: asyncio.CancelledError | None = None
        while not ended.done():
            try:
                await asyncio.wait((ended,))
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is None:
            return ended.result()
        if ended.exception() is None and isinstance(cursor := ended.result(), sqlite3.Cursor):
            # Cursors belong to the driver's thread. Nobody waits for this, but aiosqlite 0.21 ends on a missing future.
            driver._tx.put_nowait((asyncio.get_running_loop().create_future(), cursor.close))
        raise cancelled

    driver._execute = execute
