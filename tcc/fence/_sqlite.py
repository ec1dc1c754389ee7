"""What makes SQLite transactions do what they say, and the fence's rows in them.

The driver's own transaction handling is switched off: with it, a released savepoint survives the rollback around it.
Transactions of the fence begin IMMEDIATE, since one that begins by reading cannot wait for its turn to write. Writers
of this process queue up in asyncio, in order, instead of polling the file.

With that the whole database is locked, and the row of a branch that has none needs not be inserted to be locked: it is
written once, at the end, with all that the visit left. Other databases insert it first; what stands after the commit is
the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState, StaticPool

from tcc.errors import UsageError
from tcc.fence._aiosqlite import QuickCursors, let_statements_end, on_its_thread
from tcc.fence._rows import (
    ENDED,
    INSERTED,
    LOOKED_AT,
    Asked,
    Change,
    Changes,
    Key,
    check_statement,
    inserted,
    is_busy,
    key_of,
    own_errors,
    record_of,
)
from tcc.fence._rules import State
from tcc.fence._seam import FenceBusy, FenceUnavailable, Record, Visit
from tcc.fence._shareable import First

_log = logging.getLogger("tcc.fence")

BEGIN: Final = "tcc_begin"
"""Execution option of a connection: the statement with which it begins a transaction; empty where the fence does."""

_LOOK: Final = f"SELECT {LOOKED_AT} FROM tcc_fence WHERE namespace = ? AND gid = ? AND branch = ?"  # noqa: S608  our own columns
_LOOK_AT_ALL: Final = (
    f"SELECT wanted.key, {LOOKED_AT} FROM json_each(?) AS wanted CROSS JOIN tcc_fence "  # noqa: S608  our own columns
    "WHERE namespace = json_extract(wanted.value, '$[0]') AND gid = json_extract(wanted.value, '$[1]') "
    "AND branch = json_extract(wanted.value, '$[2]')"
)
"""One statement for a list's rows, whose keys are one JSON text; with each row that is there, its place in the list."""

_USES_JSON: Final = "SELECT json_extract(value, '$[0]') FROM json_each('[[0]]')"
"""What a list's statement needs; an SQLite before 3.38 may be built without."""

_OWN: Final = f"INSERT INTO tcc_fence ({INSERTED}"
_NEW: Final = {
    Change.RESERVED: f"{_OWN}, reply) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    Change.REFUSED: (
        f"{_OWN}, refusal_code, refusal_text, refusal_details) "
        f"VALUES (?, ?, ?, '{State.REFUSED.value}', ?, ?, ?, ?, NULL, ?, ?, ?)"
    ),
    None: f"{_OWN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
}
"""How a new row is written, by the change that comes to it while it stands inserted elsewhere; None: no change."""


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

    lacks_json: list[Exception] = []

    @event.listens_for(engine, "connect")
    def configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        try:
            cursor.execute(f"PRAGMA busy_timeout = {int(row_wait * 1000)}")
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
            if not lacks_json:
                try:
                    cursor.execute(_USES_JSON)
                except sqlite3.OperationalError as error:
                    lacks_json.append(error)
                    _log.warning(
                        "SQLite %s is built without its JSON functions (%s): calls of @tcc.batchable handlers are "
                        "carried out one by one, at many times the cost; use 3.38 or newer",
                        sqlite3.sqlite_version,
                        error,
                    )
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
        self._new: dict[Key, tuple[Any, ...]] = {}
        driver.cursor = QuickCursors(driver, self._check)

    async def find(self, visits: Sequence[Visit], now: int) -> Sequence[Record | None]:
        """See `Rows.find`."""
        keys = [key_of(visit) for visit in visits]
        with own_errors():
            rows = await on_its_thread(self._driver, _find, keys)
        records: list[Record | None] = []
        for visit, key, row in zip(visits, keys, rows, strict=True):
            if row is None:
                self._new[key] = inserted(visit, now)
                records.append(None)
            else:
                records.append(record_of(row))
        return records

    async def share(self, asked: Sequence[Asked]) -> Sequence[First] | None:
        """See `Rows.share`."""
        self._check_open()
        with own_errors():
            work = [(shareable.text, shareable.values(parameters, 0)) for shareable, parameters in asked]
            return await on_its_thread(self._driver, _share, work)

    async def commit(self, changes: Changes) -> None:
        """See `Rows.commit`."""
        with own_errors():
            await on_its_thread(self._driver, _commit, list(self._writes(changes)))

    def _writes(self, changes: Changes) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        new = self._new
        for change, entries in changes.items():
            match change:
                case Change.RESERVED:  # only ever of a row that is new, as the next
                    yield _NEW[change], [(*new.pop(entry[2:]), entry[1], entry[0]) for entry in entries]
                case Change.REFUSED:
                    rows = [(new.pop(entry[3:]), entry) for entry in entries]
                    yield _NEW[change], [(*row[:3], *row[4:], *entry[:3]) for row, entry in rows]
                case Change.FORGOTTEN:
                    for key in entries:
                        del new[key]
                case _:
                    yield change.value, entries
        if new:
            yield _NEW[None], list(new.values())

    async def end(self) -> None:
        """See `Rows.end`."""
        if "cursor" in vars(self._driver):
            del self._driver.cursor
        if self._driver.in_transaction:
            await on_its_thread(self._driver, sqlite3.Connection.rollback)

    def _check(self, statement: str) -> None:
        check_statement(statement)
        self._check_open()

    def _check_open(self) -> None:
        """SQLite ends a transaction by itself at some errors (`INSERT OR ROLLBACK`, a full disk).

        What a handler that goes on after that does would be committed at once; or a savepoint would begin a new
        transaction, and rows would be committed in it whose effects are gone.
        """
        if not self._driver.in_transaction:
            raise FenceUnavailable(ENDED)


def _find(connection: sqlite3.Connection, keys: Sequence[Key]) -> list[Any]:
    connection.execute("BEGIN IMMEDIATE")
    if len(keys) == 1:
        return [connection.execute(_LOOK, keys[0]).fetchone()]
    rows: list[Any] = [None] * len(keys)
    for place, *row in connection.execute(_LOOK_AT_ALL, (json.dumps(keys),)):
        rows[place] = row
    return rows


def _share(connection: sqlite3.Connection, work: Sequence[tuple[str, tuple[Any, ...]]]) -> list[First] | None:
    connection.execute("SAVEPOINT tcc_shared")
    found: list[First] = []
    try:
        for statement, values in work:
            rows = connection.execute(statement, values).fetchall()  # all: a statement is done when it was read
            found.append(rows[0][:-1] if rows else None)
    except Exception as error:
        if is_busy(error):
            raise
        connection.execute("ROLLBACK TO SAVEPOINT tcc_shared")
        return None
    return found


def _commit(connection: sqlite3.Connection, writes: Sequence[tuple[str, Sequence[tuple[Any, ...]]]]) -> None:
    if not connection.in_transaction:
        raise FenceUnavailable(ENDED)
    for statement, entries in writes:
        connection.executemany(statement, entries)
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
