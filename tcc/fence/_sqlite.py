"""What makes SQLite transactions do what they say, and the fence's rows in them.

The driver's own transaction handling is switched off: with it, a released savepoint survives the rollback around it.
Transactions of the fence begin IMMEDIATE, since one that begins by reading cannot wait for its turn to write. Writers
of this process queue up in asyncio, in order, instead of polling the file.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState, StaticPool

from tcc.errors import UsageError
from tcc.fence._aiosqlite import QuickCursors, let_statements_end, on_its_thread
from tcc.fence._rows import INSERTED, LOOKED_AT, Changes, inserted, own_errors, record_of
from tcc.fence._seam import FenceBusy, FenceUnavailable, Record, Visit

BEGIN: Final = "tcc_begin"
"""Execution option of a connection: the statement with which it begins a transaction; empty where the fence does."""

_INSERT: Final = (
    f"INSERT INTO tcc_fence ({INSERTED}) "  # noqa: S608  our own columns
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT DO NOTHING"
)
_LOOK: Final = f"SELECT {LOOKED_AT} FROM tcc_fence WHERE namespace = ? AND gid = ? AND branch = ?"  # noqa: S608  our own columns


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
        let_statements_end(connection.driver_connection)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        statement = connection.get_execution_options().get(BEGIN, "BEGIN")
        if statement:
            connection.exec_driver_sql(statement)

    def savepoint(connection: Connection, name: str) -> None:
        cursors = connection.connection.driver_connection.cursor  # type: ignore[union-attr]  # there is one: it is open
        if isinstance(cursors, QuickCursors):
            cursors.precede(f"SAVEPOINT {name}")
        else:
            ordinary(connection, name)

    ordinary = engine.dialect.do_savepoint
    engine.dialect.do_savepoint = savepoint  # type: ignore[method-assign]  # a dialect's methods are meant to be set


def reset_only_what_is_open(engine: Engine) -> None:
    """For an engine whose pool resets nothing: rolls back, at a connection's return, where there is something to."""

    @event.listens_for(engine, "reset")
    def reset(connection: DBAPIConnection, _entry: ConnectionPoolEntry, state: PoolResetState) -> None:
        if not state.terminate_only and connection.driver_connection.in_transaction:
            connection.rollback()


class SqliteRows:
    """See `Rows`: each method is one hop to the connection's thread.

    Args:
        driver: an aiosqlite connection that nobody else uses.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        driver.cursor = QuickCursors(driver)

    async def find(self, visits: Sequence[Visit], now: int) -> Sequence[Record | None]:
        """See `Rows.find`."""
        with own_errors():
            rows = await on_its_thread(self._driver, _find, [inserted(visit, now) for visit in visits])
        return [None if row is None else record_of(row) for row in rows]

    async def commit(self, changes: Changes) -> None:
        """See `Rows.commit`."""
        with own_errors():
            await on_its_thread(self._driver, _commit, changes)

    async def end(self) -> None:
        """See `Rows.end`."""
        if "cursor" in vars(self._driver):
            del self._driver.cursor
        if self._driver.in_transaction:
            await on_its_thread(self._driver, sqlite3.Connection.rollback)


def _find(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    connection.execute("BEGIN IMMEDIATE")
    return [
        None if connection.execute(_INSERT, row).rowcount == 1 else connection.execute(_LOOK, row[:3]).fetchone()
        for row in rows
    ]


def _commit(connection: sqlite3.Connection, changes: Changes) -> None:
    for change, entries in changes.items():
        connection.executemany(change.value, entries)
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise FenceUnavailable(f"the commit's result is unknown: {error}") from error


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
