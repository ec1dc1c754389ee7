"""The fence in the service's own SQL database, through SQLAlchemy's asyncio engine: SQLite and PostgreSQL.

One visit is one local transaction, in the order of CONTRACT.md: insert the row unless it is there, lock it, ask the
table, run the business code in a savepoint, write the row, commit. An error anywhere before the commit undoes all of
it; an error of the commit itself proves nothing and is said to prove nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Final, Self

from sqlalchemy import Executable, event
from sqlalchemy.exc import ArgumentError, InvalidRequestError, TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.schema import CreateTable

from tcc.errors import UsageError
from tcc.fence import _postgres, _sqlite
from tcc.fence._aiosqlite import uninterrupted
from tcc.fence._list import ListRun, ListUndone
from tcc.fence._phase import PhaseTransaction, current, refuse_to_end, refuse_to_end_by_statement
from tcc.fence._rows import Rows, change_to, key_of, sqlstate
from tcc.fence._rules import Rule, State
from tcc.fence._seam import (
    DEFAULT_RETENTION,
    DEFAULT_ROW_WAIT,
    Body,
    FenceBusy,
    FenceUnavailable,
    Listed,
    Record,
    Refusal,
    Verdict,
    Visit,
    VisitAlone,
    record_after,
    rule_for,
)
from tcc.fence._shareable import First, Shareables
from tcc.fence._table import FENCE_TABLE as T, ddl

_log = logging.getLogger("tcc.fence")

_POSTGRES_FULL: Final = "53300"  # too_many_connections

_LIST_WAIT: Final = 0.5
"""Seconds that a list waits for a row on PostgreSQL before its visits go alone, so that no row delays them all."""


class SqlFence:
    """The fence's rows in the table `tcc_fence`, and the session in which handlers work.

        fence = tcc.SqlFence("sqlite+aiosqlite:///accounts.db")

        async def ConfirmDebit(self, request, context):
            await fence.session.execute(...)      # commits together with the fence's row, or not at all

    Args:
        database: an SQLAlchemy URL with an async driver (`sqlite+aiosqlite:///file.db`, `postgresql+asyncpg://...`), or
            an engine of yours, not connected yet; a URL's engine is closed with the fence, yours is not. SQLite is
            set to WAL, synchronous FULL and foreign keys on.
        retention: seconds for which rows of finished branches are kept; half of it bounds late Tries.
        row_wait: seconds that a visit waits for the row, for any other row that its handler needs, for a connection of
            a URL's engine, and for SQLite's one writer, before it is BUSY.
        clock: unix seconds.

    A URL's engine has SQLAlchemy's usual pool (15 connections on PostgreSQL); give an engine of your own for another.
    Behind pgbouncer in transaction mode, prepared statements are missed on the next connection, unless it is 1.21 or
    newer with max_prepared_statements set. Turn them off in an engine of your own:

        create_async_engine(url, poolclass=NullPool, connect_args={
            "statement_cache_size": 0, "prepared_statement_name_func": lambda: f"tcc_{uuid4()}"})

    Raises:
        UsageError: the URL does not say an async driver of SQLite or PostgreSQL, or names a database in memory.
    """

    ddl = staticmethod(ddl)

    def __init__(
        self,
        database: str | AsyncEngine,
        *,
        retention: float = DEFAULT_RETENTION,
        row_wait: float = DEFAULT_ROW_WAIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._retention = retention
        self._clock = clock
        self._owned = isinstance(database, str)
        self._engine = _engine(database, row_wait) if isinstance(database, str) else database
        self._row_wait = row_wait
        self.shareables = Shareables(self._engine)
        self.pace = 0.0  # seconds that a handler took, after its `first`, in the last list that had such
        self._writers: _sqlite.WriterQueue | None = None
        sync_engine = self._engine.sync_engine
        match dialect := self._engine.dialect.name:
            case "sqlite":
                _sqlite.prepare(sync_engine, row_wait)
                if self._owned:
                    _sqlite.reset_only_what_is_open(sync_engine)
                self._writers = _sqlite.WriterQueue(row_wait)
                self._fenced = self._engine.execution_options(**{_sqlite.BEGIN: ""})
                self._writing = self._engine.execution_options(**{_sqlite.BEGIN: "BEGIN IMMEDIATE"})
            case "postgresql":
                _postgres.prepare(sync_engine)
                event.listen(sync_engine, "before_cursor_execute", refuse_to_end_by_statement)
                self._fenced = self._engine.execution_options(isolation_level="AUTOCOMMIT")
                self._writing = self._engine.execution_options(isolation_level="READ COMMITTED")
            case _:
                raise UsageError(f"the fence works on SQLite and PostgreSQL, not on {dialect}")
        event.listen(sync_engine, "commit", refuse_to_end)
        event.listen(sync_engine, "rollback", refuse_to_end)

    @property
    def engine(self) -> AsyncEngine:
        """The service's engine, for reading outside of phases. To write, use `begin`."""
        return self._engine

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction of the service's own that writes, outside of phases; a clean exit commits it.

            async with fence.begin() as connection:
                await connection.execute(insert(ACCOUNTS).values(...))

        On SQLite it takes its turn among the fence's writers instead of polling the file against them.

        Raises:
            UsageError: inside a Try, Confirm or Cancel, whose transaction it would wait for for ever: use `session`.
            FenceBusy: other writers held the database for too long.
        """
        phase = current.get()
        if phase is not None and phase.fence is self:
            raise UsageError("fence.begin() in a Try, Confirm or Cancel would wait for itself: use fence.session")
        async with self._turn(), self._writing.begin() as connection:
            yield connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def session(self) -> AsyncSession:
        """The session of this phase's database transaction. Its `commit()` ends a savepoint; the fence commits.

        Raises:
            UsageError: no Try, Confirm or Cancel of this fence is being worked on here.
        """
        return self._phase().session()

    async def first(self, statement: Executable, /, **parameters: object) -> First:
        """Runs a statement in this phase's database transaction; gives the first row of its result, or None.

            TAKE = update(ROOMS).where(ROOMS.c.free > 0, ROOMS.c.id == bindparam("room")).values(...).returning(...)

            @tcc.batchable
            async def TryTake(self, request, context):
                if await fence.first(TAKE, room=request.room) is None:
                    raise tcc.Refused("it is taken")

        As `session.execute`, but where handlers share a transaction (`@tcc.batchable`) and begin with this, their
        statements go to the database together, at a fraction of the cost. So it is for what is complete in itself:
        between this statement and what the handler does next, other handlers' statements may run in the transaction.
        Put the condition into the statement, rather than refuse by what it returns: a handler that changed something
        and then refuses has its whole list made again, one by one.

        Args:
            statement: a SELECT that changes nothing, or an INSERT, UPDATE or DELETE with RETURNING that returns a row
                if it changes anything. Keep it, with `bindparam` for what differs: it is compiled once. Where that is
                not enough to run it (objects of the ORM, values that SQLAlchemy has to convert, CTEs), and for a
                handler's second one, it goes through `session`.
            parameters: values of its `bindparam`s.

        Raises:
            UsageError: no Try, Confirm or Cancel of this fence is being worked on here, or the statement changes
                something and returns nothing.
            sqlalchemy.exc.DBAPIError: it failed.
        """
        return await self._phase().first(statement, parameters)

    @property
    def retention(self) -> float:
        """Seconds for which rows of finished branches are kept."""
        return self._retention

    async def create_tables(self) -> None:
        """Creates the fence's table unless it is there. In production, a migration does this: see `ddl`."""
        async with self._turn(), self._engine.begin() as connection:
            await connection.execute(CreateTable(T, if_not_exists=True))

    async def visit(self, visit: Visit, body: Body) -> Verdict:
        """Finds the row, applies the table and runs `body` where it says RUN, in one transaction; see `Fence.visit`."""
        async with self._turn(), self._transaction(self._row_wait) as (connection, rows):
            now = self._now()
            (record,) = await rows.find((visit,), now)
            rule = rule_for(record, visit)
            match rule:
                case Rule.RUN:
                    record = await self._run(connection, visit, body, record, now / 1000)
                    change, values = change_to(visit, record, now)
                    await rows.commit({change: [values]})
                case Rule.RECORD:
                    record = Record(State.CANCELLED, visit.action, visit.request_hash)
                    await rows.commit({})
            return Verdict(rule, record)  # of other rules nothing was written, or is to stay

    async def visit_many(self, listed: Sequence[Listed]) -> Sequence[Verdict | Exception]:
        """Makes visits of different branches in one transaction; see `ListFence.visit_many`."""
        order = sorted(range(len(listed)), key=lambda place: key_of(listed[place].visit))
        begun = False
        try:
            async with self._turn(), self._transaction(min(self._row_wait, _LIST_WAIT)) as (connection, rows):
                begun = True
                made = await ListRun(self, connection, rows, self._now()).make([listed[place] for place in order])
        except ListUndone:
            return [VisitAlone("a handler of its list changed something and then refused") for _ in listed]
        except (FenceBusy, FenceUnavailable) as error:
            if not begun or (self._writers is not None and isinstance(error, FenceBusy)):
                return [_again(error) for _ in listed]  # alone they would wait for the same
            return [_alone(error) for _ in listed]
        except Exception as error:
            _log.warning("a list of %d visits failed, and they are made one by one", len(listed), exc_info=error)
            return [_alone(error) for _ in listed]
        results: list[Verdict | Exception] = [VisitAlone()] * len(listed)
        for place, result in zip(order, made, strict=True):
            results[place] = result
        return results

    async def close(self) -> None:
        """Closes the engine, where the fence made it."""
        if self._owned:
            await self._engine.dispose()

    def _turn(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._writers is None else self._writers.turn()

    def _now(self) -> int:
        return int(self._clock() * 1000)

    @asynccontextmanager
    async def _transaction(self, wait: float) -> AsyncIterator[tuple[AsyncConnection, Rows]]:
        connection = self._fenced.connect()
        try:
            await connection.start()
        except PoolTimeout as error:
            raise FenceBusy("all of the database's connections are in use") from error
        except Exception as error:  # the driver's own, which SQLAlchemy does not wrap while there is no connection
            if sqlstate(error) == _POSTGRES_FULL:
                raise FenceBusy(f"the database takes no more connections: {error}") from error
            raise FenceUnavailable(f"the fence's database cannot be reached: {error}") from error
        rows: Rows | None = None
        try:
            rows = self._rows(connection, wait)
            yield connection, rows
        finally:
            await uninterrupted(_leave(connection, rows))

    def _rows(self, connection: AsyncConnection, wait: float) -> Rows:
        assert connection.sync_connection is not None  # noqa: S101  it is started
        driver: Any = connection.sync_connection.connection.driver_connection
        return _sqlite.SqliteRows(driver) if self._writers is not None else _postgres.PostgresRows(driver, wait)

    def _phase(self) -> PhaseTransaction:
        phase = current.get()
        if phase is None or phase.fence is not self:
            raise UsageError(
                "fence.session exists only while a Try, Confirm or Cancel handler runs; elsewhere use "
                "AsyncSession(fence.engine)"
            )
        return phase

    async def _run(
        self, connection: AsyncConnection, visit: Visit, body: Body, record: Record | None, now: float
    ) -> Record:
        phase = PhaseTransaction(self, connection)
        try:
            result = await phase.run(body, record)
            if isinstance(result, Refusal):
                await phase.undo()
        finally:
            await phase.close()
        return record_after(visit, record, result, now)


async def _leave(connection: AsyncConnection, rows: Rows | None) -> None:
    try:
        if rows is not None:
            await rows.end()
    except Exception as error:
        _log.debug("a connection could not be rolled back and is thrown away: %s", error)
        await connection.invalidate()
    finally:
        await connection.close()


def _again(error: FenceBusy | FenceUnavailable) -> Exception:
    """The same error for one more caller, each of which raises its own."""
    if isinstance(error, FenceBusy):
        again: Exception = FenceBusy(str(error), error.retry_after)
    else:
        again = FenceUnavailable(str(error))
    again.__cause__ = error
    return again


def _alone(error: Exception) -> VisitAlone:
    alone = VisitAlone(f"its list failed: {error}")
    alone.__cause__ = error
    return alone


def _engine(url: str, wait: float) -> AsyncEngine:
    try:
        if url.startswith("sqlite"):
            return create_async_engine(url, pool_reset_on_return=None)  # see reset_only_what_is_open
        return create_async_engine(url, pool_timeout=wait)
    except (ArgumentError, InvalidRequestError, ImportError) as error:
        raise UsageError(
            f"the fence cannot use {url.partition('://')[0]!r} ({error}): give an SQLAlchemy URL with an async driver, "
            "such as sqlite+aiosqlite:///service.db or postgresql+asyncpg://..."
        ) from error
