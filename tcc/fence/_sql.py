"""The fence in the service's own SQL database, through SQLAlchemy's asyncio engine: SQLite and PostgreSQL.

One visit is one local transaction, in the order of CONTRACT.md: insert the row unless it is there, lock it, ask the
table, run the business code in a savepoint, write the row, commit. An error anywhere before the commit undoes all of
it; an error of the commit itself proves nothing and is said to prove nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any, Final, Self, cast

from sqlalchemy import Connection, CursorResult, bindparam, event, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidRequestError, TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.schema import CreateTable

from tcc.errors import UsageError
from tcc.fence._phase import PhaseTransaction, current
from tcc.fence._rules import AFTER, Phase, Rule, State
from tcc.fence._seam import (
    DEFAULT_RETENTION,
    DEFAULT_ROW_WAIT,
    Body,
    FenceBusy,
    FenceUnavailable,
    Record,
    Refusal,
    Verdict,
    Visit,
    rule_for,
)
from tcc.fence._sqlite import FENCED, WriterQueue, prepare, uninterrupted
from tcc.fence._table import FENCE_TABLE as T, ddl
from tcc.wire import STATUS_BY_NUMBER

_SQLITE_BUSY: Final = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED; their extended codes share the low byte
_POSTGRES_BUSY: Final = {"55P03", "40001", "40P01"}  # lock_not_available, serialization_failure, deadlock_detected
_POSTGRES_FULL: Final = "53300"  # too_many_connections

_ROW_OF = (
    (T.c.namespace == bindparam("key_ns")) & (T.c.gid == bindparam("key_gid")) & (T.c.branch == bindparam("key_br"))
)
_LOOK = select(
    T.c.state,
    T.c.action,
    T.c.request_hash,
    T.c.reply,
    T.c.refusal_code,
    T.c.refusal_text,
    T.c.refusal_details,
    T.c.tried_at,
).where(_ROW_OF)
_INSERT: Final = {
    "sqlite": sqlite.insert(T).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(T).on_conflict_do_nothing(),
}
_SET_REPLY: Final = update(T).where(_ROW_OF).values(reply=bindparam("new_reply"))
_SET_STATE: Final = (
    update(T).where(_ROW_OF).values(state=bindparam("new_state"), updated_at=bindparam("new_updated_at"))
)
_SET_REFUSAL: Final = (
    update(T)
    .where(_ROW_OF)
    .values(
        state=State.REFUSED.value,
        refusal_code=bindparam("new_code"),
        refusal_text=bindparam("new_text"),
        refusal_details=bindparam("new_details"),
    )
)


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
        dialect = self._engine.dialect.name
        self._writers: WriterQueue | None = None
        self._set_up: str | None = None
        match dialect:
            case "sqlite":
                prepare(self._engine.sync_engine, row_wait)
                self._writers = WriterQueue(row_wait)
                self._fenced = self._engine.execution_options(**{FENCED: True})
                self._look = _LOOK
            case "postgresql":
                self._fenced = self._engine.execution_options(isolation_level="READ COMMITTED")
                self._set_up = f"SET LOCAL lock_timeout = {int(row_wait * 1000)}"
                self._look = _LOOK.with_for_update()
            case _:
                raise UsageError(f"the fence works on SQLite and PostgreSQL, not on {dialect}")
        self._insert = _INSERT[dialect]
        event.listen(self._engine.sync_engine, "commit", _refuse_commit_by_handler)

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
        async with self._turn(), self._fenced.begin() as connection:
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
        phase = current.get()
        if phase is None or phase.fence is not self:
            raise UsageError(
                "fence.session exists only while a Try, Confirm or Cancel handler runs; elsewhere use "
                "AsyncSession(fence.engine)"
            )
        return phase.session()

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
        try:
            async with self._turn(), self._connected() as connection:
                return await self._transaction(connection, visit, body)
        except _HandlersError as wrapped:
            raise wrapped.error from wrapped.error.__cause__
        except DBAPIError as error:
            raise _momentary(error) or FenceUnavailable(f"the fence's database failed: {error.orig}") from error
        except Exception as error:
            momentary = _momentary(error)
            if momentary is None:
                raise
            raise momentary from error

    async def close(self) -> None:
        """Closes the engine, where the fence made it."""
        if self._owned:
            await self._engine.dispose()

    def _turn(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._writers is None else self._writers.turn()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        connection = self._fenced.connect()
        try:
            await connection.start()
        except PoolTimeout as error:
            raise FenceBusy("all of the database's connections are in use") from error
        except Exception as error:  # the driver's own, which SQLAlchemy does not wrap while there is no connection
            if _sqlstate(error) == _POSTGRES_FULL:
                raise FenceBusy(f"the database takes no more connections: {error}") from error
            raise FenceUnavailable(f"the fence's database cannot be reached: {error}") from error
        try:
            yield connection
        finally:
            await uninterrupted(connection.close())

    async def _transaction(self, connection: AsyncConnection, visit: Visit, body: Body) -> Verdict:
        now = int(self._clock() * 1000)
        record = await self._find(connection, visit, now)
        rule = rule_for(record, visit)
        match rule:
            case Rule.RUN if visit.phase is Phase.TRY:
                record = await self._try(connection, visit, body, now)
            case Rule.RUN if record is not None:
                await self._business(connection, record, body)
                record = replace(record, state=AFTER[visit.phase])
                await _set(connection, _SET_STATE, visit, new_state=record.state.value, new_updated_at=now)
            case Rule.RECORD:
                record = Record(State.CANCELLED, visit.action, visit.request_hash)
            case _:
                return Verdict(rule, record)  # leaving the connection rolls back; nothing was written
        try:
            await connection.commit()
        except Exception as error:
            await connection.invalidate()  # SQLAlchemy holds the transaction for ended, the database may not
            raise FenceUnavailable(f"the commit's result is unknown: {error}") from error
        return Verdict(rule, record)

    async def _find(self, connection: AsyncConnection, visit: Visit, now: int) -> Record | None:
        """The branch's row, locked; where it is new, it stands inserted as the phase would leave it."""
        if self._set_up is not None:
            await connection.execute(text(self._set_up))
        inserted = await connection.execute(
            self._insert,
            {
                "namespace": visit.namespace,
                "gid": visit.gid,
                "branch": visit.branch,
                "state": AFTER[visit.phase].value,
                "action": visit.action,
                "request_hash": visit.request_hash,
                "tried_at": now if visit.phase is Phase.TRY else None,
                "updated_at": now,
            },
        )
        if cast("CursorResult[Any]", inserted).rowcount == 1:
            return None
        return _record((await connection.execute(self._look, _key(visit))).one())

    async def _try(self, connection: AsyncConnection, visit: Visit, body: Body, now: int) -> Record:
        savepoint = await connection.begin_nested()
        result = await self._business(connection, None, body)
        if isinstance(result, Refusal):
            await savepoint.rollback()
            await _set(
                connection,
                _SET_REFUSAL,
                visit,
                new_code=result.code.value[0],
                new_text=result.text,
                new_details=result.details,
            )
            return Record(State.REFUSED, visit.action, visit.request_hash, refusal=result, tried_at=now / 1000)
        await savepoint.commit()
        await _set(connection, _SET_REPLY, visit, new_reply=result)
        return Record(State.TRIED, visit.action, visit.request_hash, reply=result, tried_at=now / 1000)

    async def _business(self, connection: AsyncConnection, record: Record | None, body: Body) -> bytes | Refusal:
        phase = PhaseTransaction(self, connection)
        token = current.set(phase)
        try:
            result = await body(record)
            if not isinstance(result, Refusal):
                await phase.finish()
            return result
        except Exception as error:
            momentary = _momentary(error)
            if momentary is not None:
                raise momentary from error
            if isinstance(error, DBAPIError):
                raise _HandlersError(error) from error
            raise
        finally:
            current.reset(token)
            await phase.close()


def _engine(url: str, wait: float) -> AsyncEngine:
    try:
        return create_async_engine(url, **({} if url.startswith("sqlite") else {"pool_timeout": wait}))
    except (ArgumentError, InvalidRequestError, ImportError) as error:
        raise UsageError(
            f"the fence cannot use {url.partition('://')[0]!r} ({error}): give an SQLAlchemy URL with an async driver, "
            "such as sqlite+aiosqlite:///service.db or postgresql+asyncpg://..."
        ) from error


def _refuse_commit_by_handler(connection: Connection) -> None:
    phase = current.get()
    if phase is not None and phase.owns(connection):
        connection.invalidate()  # SQLAlchemy now holds the transaction for ended, the database does not
        raise UsageError("the transaction is the fence's: commit through fence.session, not through its connection")


def _key(visit: Visit) -> dict[str, object]:
    return {"key_ns": visit.namespace, "key_gid": visit.gid, "key_br": visit.branch}


async def _set(connection: AsyncConnection, statement: Any, visit: Visit, **values: object) -> None:
    await connection.execute(statement, _key(visit) | values)


def _record(row: Sequence[Any]) -> Record:
    state, action, request_hash, reply, code, words, details, tried_at = row
    return Record(
        State(state),
        action,
        request_hash,
        reply,
        None if code is None else Refusal(STATUS_BY_NUMBER[code], words or "", details or b""),
        None if tried_at is None else tried_at / 1000,
    )


class _HandlersError(Exception):
    """A handler's database error on its way out, told apart from the fence's own."""

    def __init__(self, error: DBAPIError) -> None:
        super().__init__()
        self.error = error


def _momentary(error: Exception) -> FenceBusy | FenceUnavailable | None:
    """What an error says of the database's state rather than of the statement; None where it says nothing."""
    if not isinstance(error, DBAPIError):
        # Some errors of a connection that broke in the middle come out of asyncpg as they are, not as SQLAlchemy's.
        drivers_own = type(error).__module__.partition(".")[0] == "asyncpg"
        return FenceUnavailable(f"the database's connection broke: {error}") if drivers_own else None
    if error.connection_invalidated:
        return FenceUnavailable(f"the database's connection broke: {error.orig}")
    code = getattr(error.orig, "sqlite_errorcode", None)
    busy = code & 0xFF in _SQLITE_BUSY if isinstance(code, int) else _sqlstate(error.orig) in _POSTGRES_BUSY
    return FenceBusy(f"the database is busy: {error.orig}") if busy else None


def _sqlstate(error: BaseException | None) -> object:
    error = error.orig if isinstance(error, DBAPIError) else error
    return getattr(error, "sqlstate", None)
