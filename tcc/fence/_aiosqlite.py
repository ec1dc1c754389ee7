"""Working with aiosqlite: each of its connections is a thread, and each word to a thread costs more than the SQL.

So whole pieces of work go over in one hop. While the fence has a connection, a statement of SQLAlchemy's takes one hop
instead of three or four, and a savepoint goes over with the first statement in it.

A cancelled visit (a caller that is gone, a handler's time that is over) must not leave a connection that holds the
write lock. So a statement under way is awaited to its end, and closing a connection is never interrupted.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from typing import Any, Self, TypeAlias, TypeVar

R = TypeVar("R")

Results: TypeAlias = tuple[list[Any], Any, int, int | None]
"""Rows, description, number of rows touched and last row's id of an executed statement."""


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


async def on_its_thread(driver: Any, work: Callable[..., R], *args: Any) -> R:
    """Calls `work` with the `sqlite3.Connection` of an aiosqlite connection, and arguments, in one hop."""
    result: R = await driver._execute(work, driver._connection, *args)
    return result


def let_statements_end(driver: Any) -> None:
    """Makes a connection of aiosqlite wait, when it is cancelled, for the statement that its thread is at.

    Otherwise the connection is closed beside a statement that nobody fetches from, and SQLite keeps a transaction open,
    with the write lock, until the garbage collector finds that statement.
    """

    async def execute(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if not driver._running or driver._connection is None:
            raise ValueError("Connection closed")  # as aiosqlite words it: SQLAlchemy reads this
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        kept: list[object] = []

        def work() -> object:
            result = function(*args, **options)
            kept.append(result)
            return result

        driver._tx.put_nowait((ended, work))
        try:
            return await ended
        except asyncio.CancelledError:
            await uninterrupted(_drained(driver, kept))
            raise

    driver._execute = execute


async def _drained(driver: Any, kept: Sequence[object]) -> None:
    """Waits until a connection's thread has done what it was told so far; closes the cursor that it made meanwhile."""
    drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def close() -> None:  # on the thread to which its cursors belong
        for result in kept:
            if isinstance(result, sqlite3.Cursor):
                result.close()

    driver._tx.put_nowait((drained, close))
    await drained


class QuickCursors:
    """Stands in for the `cursor` method of an aiosqlite connection.

    Args:
        driver: the connection.
        check: is given each statement before it goes over; raises where it must not.
    """

    def __init__(self, driver: Any, check: Callable[[str], None]) -> None:
        self._driver = driver
        self._check = check
        self._first: list[str] = []

    def __call__(self) -> QuickCursor:
        return QuickCursor(self)

    def precede(self, statement: str) -> None:
        """Has a statement executed before the next one, in the same hop."""
        self._first.append(statement)

    async def run(self, run: Callable[..., object], statement: str, parameters: object) -> Results:
        """Executes a statement, and fetches all of its rows."""
        self._check(statement)
        first, self._first = self._first, []
        return await on_its_thread(self._driver, _all_of, first, run, statement, parameters)


class QuickCursor:
    """A cursor of aiosqlite's kind, as far as SQLAlchemy uses it.

    Args:
        cursors: of its connection.
    """

    def __init__(self, cursors: QuickCursors) -> None:
        self._cursors = cursors
        self._rows: list[Any] = []
        self._next = 0
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def execute(self, statement: str, parameters: Iterable[Any] = ()) -> Self:
        return await self._run(sqlite3.Cursor.execute, statement, parameters)

    async def executemany(self, statement: str, parameters: Iterable[Iterable[Any]]) -> Self:
        return await self._run(sqlite3.Cursor.executemany, statement, parameters)

    async def fetchone(self) -> Any:
        return next(iter(self._take(1)), None)

    async def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        return self._take(self.arraysize if size is None else size)

    async def fetchall(self) -> Sequence[Any]:
        return self._take(len(self._rows))

    async def close(self) -> None:
        self._rows = []

    def _take(self, number: int) -> Sequence[Any]:
        rows = self._rows[self._next : self._next + number]
        self._next += number
        return rows

    async def _run(self, run: Callable[..., object], statement: str, parameters: object) -> Self:
        results = await self._cursors.run(run, statement, parameters)
        self._rows, self.description, self.rowcount, self.lastrowid = results
        self._next = 0
        return self


def _all_of(
    connection: sqlite3.Connection,
    first: Sequence[str],
    run: Callable[..., object],
    statement: str,
    parameters: object,
) -> Results:
    cursor = connection.cursor()
    try:
        for preceding in first:
            cursor.execute(preceding)
        run(cursor, statement, parameters)
        rows = cursor.fetchall() if cursor.description else []
        return rows, cursor.description, cursor.rowcount, cursor.lastrowid
    finally:
        cursor.close()
