"""The embedded log: one SQLite file, one manager, nothing to install.

Appends of concurrent transactions share a commit (`tcc.batching`), and each row gets its own verdict. Whatever fails in
a way that does not concern one row alone makes the group's rows unknown: never conflicts, never successes. The writer
works on a thread of its own and reads on another, so reads never queue behind writes. The two threads call the
database synchronously: a group costs one hop to the thread and back, where a driver with an async face costs a dozen.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from tcc.batching import Answered
from tcc_server.core.model import Key
from tcc_server.log import statements
from tcc_server.log.groups import Groups
from tcc_server.log.lane import Lane
from tcc_server.log.migrate import path_of, prepare
from tcc_server.log.rules import ADOPTED, check_page_size, make_token, read_token
from tcc_server.log.seam import Filter, LogError, LogRejected, LogUnavailable, LogUnknown, Page, Row
from tcc_server.log.sqlite_file import SqliteFile, explain
from tcc_server.log.sweep import Sweep

_Result = TypeVar("_Result")

_OF_ONE_ROW = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError)
"""Errors that speak of the values given, not of the database: the same row would fail again."""


class SqliteLog:
    """A Log in a SQLite file.

        log = SqliteLog("tcc.db", replica=ids.replica_id())
        await log.open()

    Args:
        path: of the file, or a URL like sqlite:///tcc.db; made if there is none. `<path>.lock` is made beside it.
        replica: this replica's id, new at each start.
        max_rows: of one commit.
        max_bytes: of one commit.
        auto_migrate: make the schema, or bring it up to date, at `open`; else only `tcc migrate` does.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        replica: str,
        max_rows: int = 512,
        max_bytes: int = 4 * 1024 * 1024,
        auto_migrate: bool = True,
    ) -> None:
        self._file = SqliteFile(path_of(path))
        self._replica = replica
        self._may_migrate = auto_migrate
        self._writer = Lane("log-writer", self._file.writer)
        self._reader = Lane("log-reader", self._file.reader)
        self._groups = Groups(self._send, max_rows=max_rows, max_bytes=max_bytes)
        self._adopting = asyncio.Lock()
        self._undelivered: dict[Key, Row] = {}
        self._sweep: Sweep | None = None
        self._is_open = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def shared(self) -> bool:
        """Never: the file's lock keeps everybody else out."""
        return False

    async def open(self) -> None:
        """Lock the file, check or make its schema, connect. A log opens once; after `close`, make a new one."""
        if self._is_open or self._closing is not None:
            raise LogUnavailable("this log was opened before: make a new one")
        try:
            await self._writer.run(self._prepare)
            await self._reader.run(self._reader.connect)
        except BaseException:
            await self.close()
            raise
        self._is_open = True
        self._groups.open()

    async def close(self) -> None:
        """Finish what was appended, then let go of the file. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="log-close")
        await asyncio.shield(self._closing)

    async def lapsed(self) -> None:
        """Never returns: the file's lock is this process's until it ends."""
        await asyncio.Event().wait()

    def append(self, row: Row) -> Awaitable[None]:
        """Write one row with the next group."""
        return self._groups.append(row)

    def write(self, row: Row, verdict: Answered[None]) -> None:
        """The same, with a verdict in place of a future."""
        self._groups.write(row, verdict)

    async def load(self, keys: Collection[Key]) -> dict[Key, Row]:
        """The rows of those keys that exist."""
        wanted = list(keys)
        return await self._read(lambda connection: statements.load(connection, wanted))

    async def list(self, wanted: Filter, page_size: int, token: str | None = None) -> Page:
        """A page of rows by filter."""
        check_page_size(page_size)
        after = read_token(token) if token is not None else None
        rows = await self._read(lambda connection: statements.newest(connection, wanted, page_size + 1, after))
        page = rows[:page_size]
        return Page(page, make_token(page[-1]) if len(rows) > page_size else None)

    async def adopt(self, limit: int) -> Sequence[Row]:
        """Take over unfinished rows of other owners: all of them are dead, the file's lock says so."""
        async with self._adopting:
            self._check_open()
            try:
                rows = await self._writer.run(self._adopt, limit)
            except SQLAlchemyError as error:
                raise LogUnavailable(explain(error, self._file.path)) from error
            for row in rows:
                del self._undelivered[row.key]
            return rows

    # On the loop's thread.

    async def _send(self, rows: Sequence[Row]) -> Sequence[Exception | None]:
        return await self._writer.run(self._write, rows)

    async def _read(self, query: Callable[[Connection], _Result]) -> _Result:
        self._check_open()
        try:
            return await self._reader.run(self._query, query)
        except SQLAlchemyError as error:
            raise LogUnavailable(explain(error, self._file.path)) from error

    def _check_open(self) -> None:
        if self._closing is not None:
            raise LogUnavailable("the log is closed")
        if not self._is_open:
            raise LogUnavailable("the log is not open")

    async def _close(self) -> None:
        await self._groups.close()
        await self._reader.close()
        await self._writer.close()
        self._file.release()

    # On the writer's thread.

    def _prepare(self) -> None:
        self._file.acquire()
        prepare(self._file, may_migrate=self._may_migrate)
        self._writer.connect()

    def _write(self, rows: Sequence[Row]) -> Sequence[LogError | None]:
        try:
            database = statements.driver_of(self._writer.connect())
            try:
                database.execute("BEGIN IMMEDIATE")
                verdicts: Sequence[LogError | None] = statements.write(database, rows, self._replica)
            except _OF_ONE_ROW:
                database.rollback()
                database.execute("BEGIN IMMEDIATE")
                verdicts = [self._write_one(database, row) for row in rows]
            self._commit(database)
        except Exception as error:
            # Before the commit nothing was written, within the commit nobody knows: unknown covers both.
            self._writer.disconnect()
            return [self._unknown(error) for _ in rows]
        return verdicts

    def _commit(self, database: sqlite3.Connection) -> None:
        database.commit()

    def _unknown(self, error: Exception) -> LogUnknown:
        unknown = LogUnknown(explain(error, self._file.path))
        unknown.__cause__ = error
        return unknown

    def _write_one(self, database: sqlite3.Connection, row: Row) -> LogError | None:
        try:  # no savepoint: in SQLite a statement that fails undoes itself alone
            (verdict,) = statements.write(database, [row], self._replica)
            return verdict
        except _OF_ONE_ROW as error:
            return LogRejected(f"transaction {row.key.gid} cannot be stored: {explain(error, self._file.path)}")

    def _adopt(self, limit: int) -> Sequence[Row]:
        """Rows once taken over and not handed out, because a commit's answer or the caller was lost, come first."""
        connection = self._writer.connect()
        try:
            with connection.begin():
                stored = statements.load(connection, self._undelivered)
                self._undelivered = {
                    key: row
                    for key, row in stored.items()
                    if row.owner == self._replica and row.version == self._undelivered[key].version
                }
                adopted = list(self._undelivered.values())[:limit]
                wanted = limit - len(adopted)
                sweep = self._sweep or Sweep(statements.other_owners(connection, self._replica))
                found = statements.orphans(connection, sweep, wanted)
                taken = [replace(row, version=row.version + 1, owner=self._replica, write_id=ADOPTED) for row in found]
                statements.take_over(connection, taken)
                self._undelivered.update((row.key, row) for row in taken)
            # Not before the commit: what was not written after all is to be found again.
            self._sweep = sweep.beyond(found, wanted)
            return adopted + taken
        except SQLAlchemyError:
            self._writer.disconnect()
            raise

    # On the reader's thread.

    def _query(self, query: Callable[[Connection], _Result]) -> _Result:
        try:
            return query(self._reader.connect())
        except SQLAlchemyError:
            self._reader.disconnect()
            raise
