"""The PostgreSQL database of a shared log: how it is connected to, what its errors mean, and whether it keeps its word.

The law: only an error that the server itself gave, and that ends a statement by undoing it, says that nothing was
written. Whatever else goes wrong, from a lost connection to a timeout, leaves it unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidRequestError, TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tcc_server.log.seam import LogUnavailable

_log = structlog.get_logger(__name__)
_Result = TypeVar("_Result")

CONNECT_TIMEOUT = 5.0
"""Seconds to connect, and to wait for a connection of the pool."""

COMMAND_TIMEOUT = 10.0
"""Seconds for one statement, commit included; then its result is unknown, and its connection is dropped."""

MIGRATION_TIMEOUT = 3600.0
"""Seconds for one statement of a migration: an index of a large table takes its time."""

_SETTINGS = {
    "application_name": "tcc-manager",
    "default_transaction_isolation": "read committed",
    "lock_timeout": "5s",
    # Rows are found by key, and in the order of an index. A plan that was made when the table was empty, or from
    # statistics of that time, may well scan another index for that, or read everything and sort it.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "max_parallel_workers_per_gather": "0",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
}

_REASONS = {
    "28P01": "the password is wrong: check the user and the password in the log's URL",
    "28000": "the server does not let this user in: check the user in the log's URL, and the server's pg_hba.conf",
    "3D000": "there is no such database: create it, or check the name in the log's URL",
    "42501": "this user may not do that: grant it the rights on the database's schema",
    "42P01": "a table of the log is missing: run `tcc migrate`",
    "42703": "a column of the log is missing: run `tcc migrate`",
    "53100": "the server's disk is full: free some space, the manager goes on by itself",
    "53300": "the server takes no more connections: raise max_connections, or end what holds them",
    "25006": "the server only reads: give the URL of the primary",
    "57P03": "the server is starting or stopping: the manager goes on by itself",
}


def is_postgres(database: str | Path) -> bool:
    """Whether this is the URL of a PostgreSQL database."""
    return isinstance(database, str) and database.startswith(("postgresql:", "postgresql+"))


def sqlstate(error: BaseException | None) -> str:
    """The five characters by which PostgreSQL names an error; empty for one that did not come from the server."""
    if isinstance(error, DBAPIError):
        error = error.orig
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else ""


def is_undone(error: BaseException) -> bool:
    """The server ended the statement for a passing reason, and undid it: it can be sent again at once."""
    return sqlstate(error) in {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock_timeout


def is_of_one_row(error: BaseException) -> bool:
    """The error speaks of the values given: the same row would fail again. Nothing was written."""
    return sqlstate(error)[:2] in {"22", "23"}  # data exception, of the driver too; integrity constraint violation


class KeptConnection:
    """One connection, for statements each of which is a transaction of its own, sent one after the other.

    They go straight to the driver: to check a connection out of SQLAlchemy's pool, and to have it execute a statement,
    costs as much as writing tens of rows.

    Args:
        engine: in autocommit.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._driver: Any = None

    async def run(self, statement: str, *values: object) -> Sequence[Mapping[str, Any]]:
        """Run a statement; its rows. Raises what the driver raises; see `is_undone` and `is_of_one_row`."""
        if self._driver is None or self._driver.is_closed():
            await self._drop()  # given back, one that the server closed would be the next one taken
            await self._connect()
        try:
            rows: Sequence[Mapping[str, Any]] = await self._driver.fetch(statement, *values)
        except BaseException as error:
            if not (is_undone(error) or is_of_one_row(error)):
                await self._drop()  # a server that only reads, a reply that may still come: connect anew
            raise
        return rows

    async def close(self) -> None:
        """Give the connection back. The next statement takes another."""
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            await connection.close()

    async def _connect(self) -> None:
        self._connection = await self._engine.connect()
        self._driver = (await self._connection.get_raw_connection()).driver_connection

    async def _drop(self) -> None:
        try:
            if self._connection is not None:
                await self._connection.invalidate()
        finally:
            await self.close()


class PostgresDatabase:
    """One database, and the engines that connect to it.

    Args:
        url: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`; with several hosts, see asyncpg's documentation.

    Raises:
        LogUnavailable: the URL cannot be used.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            if parsed.drivername not in {"postgresql", "postgresql+asyncpg"} or not parsed.database:
                raise ArgumentError("not a PostgreSQL URL")
            self._url = parsed.set(drivername="postgresql+asyncpg")
            self._engines: list[AsyncEngine] = []
            self._own = self.engine(1)
            self._migrating = self.engine(1, timeout=MIGRATION_TIMEOUT)
        except (ArgumentError, InvalidRequestError, ValueError):
            raise LogUnavailable(
                "the log's URL cannot be read: write it like postgresql://USER:PASSWORD@HOST:5432/DATABASE"
            ) from None
        except ImportError as error:
            raise LogUnavailable(
                f"the log on PostgreSQL needs asyncpg ({error}): pip install tcc-toolkit[server]"
            ) from error
        self.name = parsed.render_as_string(hide_password=True)

    def engine(self, connections: int, *, timeout: float | None = None, **options: Any) -> AsyncEngine:
        """A further engine, with at most so many connections; closed with the database.

        Args:
            connections: that it may have.
            timeout: seconds for one statement; COMMAND_TIMEOUT if None.
            options: of SQLAlchemy's `create_async_engine`.
        """
        limit = COMMAND_TIMEOUT if timeout is None else timeout
        engine = create_async_engine(
            self._url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=CONNECT_TIMEOUT,
            connect_args={"timeout": CONNECT_TIMEOUT, "command_timeout": limit, "server_settings": _SETTINGS},
            **options,
        )
        self._engines.append(engine)
        return engine

    async def transaction(self, work: Callable[[Connection], _Result]) -> _Result:
        """Run something in a transaction of its own. Raises LogUnavailable."""
        return await self._transaction(self._own, work)

    async def migration(self, work: Callable[[Connection], _Result]) -> _Result:
        """As `transaction`, for what may take long. Raises LogUnavailable."""
        return await self._transaction(self._migrating, work)

    async def _transaction(self, engine: AsyncEngine, work: Callable[[Connection], _Result]) -> _Result:
        try:
            async with engine.begin() as connection:
                await connection.execute(text("SET LOCAL lock_timeout = '60s'"))
                return await connection.run_sync(work)
        except LogUnavailable:
            raise
        except Exception as error:
            raise LogUnavailable(self.explain(error)) from error

    async def check(self) -> None:
        """Raise LogUnavailable where the server cannot be written; warn where it does not keep what it acknowledged."""

        def settings(connection: Connection) -> dict[str, str]:
            names = ("fsync", "full_page_writes", "synchronous_commit", "transaction_read_only")
            return {name: str(connection.execute(text(f"SHOW {name}")).scalar()) for name in names}

        found = await self.transaction(settings)
        if found["transaction_read_only"] == "on":
            raise LogUnavailable(f"database {self.name}: {_REASONS['25006']}")
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            if found[name] == "off":
                _log.warning(
                    "log_not_durable",
                    setting=f"{name} = off",
                    danger="the server acknowledges what a crash of it can lose: decisions too",
                    hint=f"set {name} = on for the log's database",
                )

    async def close(self) -> None:
        """Close all connections."""
        for engine in self._engines:
            await engine.dispose()

    def explain(self, error: BaseException) -> str:
        """What is wrong, in words that say what to do."""
        if isinstance(error, PoolTimeout):
            return f"database {self.name}: all of the manager's connections to it are in use"
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        words = str(cause).partition("\n")[0] or type(cause).__name__
        words = words.rpartition(">: ")[2]  # the driver's class, as SQLAlchemy puts it before the words
        if isinstance(error, TimeoutError):
            words = f"no answer within {COMMAND_TIMEOUT:g} s"
        reason = _REASONS.get(sqlstate(error))
        if reason is None and isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
            reason = "the server cannot be reached: check that it runs, and the host and port in the log's URL"
        return f"database {self.name}: {reason} ({words})" if reason else f"database {self.name}: {words}"
