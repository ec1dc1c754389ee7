"""The fence's rows in PostgreSQL, straight through asyncpg.

The transaction is the fence's own: begun, committed and rolled back here. To SQLAlchemy the connection is in
autocommit, so that what its sessions end is bookkeeping and savepoints, never the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from tcc.fence._rows import (
    ENDED,
    INSERTED,
    LOOKED_AT,
    Asked,
    Change,
    Changes,
    inserted,
    is_of_a_statement,
    key_of,
    own_errors,
    record_of,
)
from tcc.fence._seam import FenceBusy, FenceUnavailable, Record, Visit
from tcc.fence._shareable import First, Shareable

_KEYS: Final = "$1::text[], $2::text[], $3::text[]"

_INSERT: Final = (
    f"INSERT INTO tcc_fence ({INSERTED}) SELECT *, NULL "  # noqa: S608  our own columns
    f"FROM unnest({_KEYS}, $4::text[], $5::text[], $6::bytea[], $7::bigint[], $8::bigint[]) "
    "ON CONFLICT DO NOTHING RETURNING namespace, gid, branch"
)
_LOOK: Final = (
    f"SELECT place, {LOOKED_AT} FROM unnest({_KEYS}) WITH ORDINALITY AS wanted (namespace, gid, branch, place) "  # noqa: S608  our own columns
    "JOIN tcc_fence USING (namespace, gid, branch) ORDER BY place FOR UPDATE OF tcc_fence"
)
"""Locks in the order of the list, which is the same everywhere; a collation's might not be."""


def _numbered(statement: str) -> str:
    numbers = count(1)
    return "".join(f"${next(numbers)}" if letter == "?" else letter for letter in statement)


_CHANGES: Final = {change: _numbered(change.value) for change in Change}


def prepare(engine: Engine) -> None:
    """Sets an engine up: a pooled connection that broke while nobody used it is replaced, not given out."""

    @event.listens_for(engine, "checkout")
    def check(connection: DBAPIConnection, _entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        if connection.driver_connection.is_closed():
            raise DisconnectionError("the connection broke while it was not used")

    def savepoint(connection: Connection, name: str) -> None:
        if not connection.connection.driver_connection.is_in_transaction():  # type: ignore[union-attr]  # it is open
            ordinary(connection, name)  # SQLAlchemy begins its transaction with the first statement
            return
        # Not prepared: there is always another name, and each would take one round trip more to prepare.
        connection.connection.dbapi_connection.run_async(partial(_savepoint, name))  # type: ignore[union-attr]  # it is open

    ordinary = engine.dialect.do_savepoint
    engine.dialect.do_savepoint = savepoint  # type: ignore[method-assign]  # a dialect's methods are meant to be set


async def _savepoint(name: str, driver: Any) -> None:
    await driver.execute(f"SAVEPOINT {name}")


class PostgresRows:
    """See `Rows`.

    Args:
        driver: an asyncpg connection that nobody else uses, not in a transaction.
        wait: seconds that a statement of the transaction, the handlers' included, waits for a row.
    """

    def __init__(self, driver: Any, wait: float) -> None:
        self._driver = driver
        self._begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {int(wait * 1000)};"
        self._open = False

    async def find(self, visits: Sequence[Visit], now: int) -> Sequence[Record | None]:
        """See `Rows.find`."""
        with own_errors():
            self._open = True
            await self._driver.execute(self._begin)
            values = zip(*(inserted(visit, now) for visit in visits), strict=True)
            new = {tuple(row) for row in await self._driver.fetch(_INSERT, *values)}
            records: list[Record | None] = [None] * len(visits)
            there = [place for place, visit in enumerate(visits) if key_of(visit) not in new]
            if there:
                keys = zip(*(key_of(visits[place]) for place in there), strict=True)
                rows = await self._driver.fetch(_LOOK, *keys)
                if len(rows) < len(there):
                    raise FenceBusy("a row of the fence was deleted at this moment")
                for place, row in zip(there, rows, strict=True):
                    records[place] = record_of(row[1:])
        return records

    async def share(self, asked: Sequence[Asked]) -> Sequence[First] | None:
        """See `Rows.share`."""
        together: dict[Shareable, list[tuple[object, ...]]] = {}
        for place, (shareable, parameters) in enumerate(asked):
            together.setdefault(shareable, []).append(shareable.values(parameters, place))
        found: list[First] = [None] * len(asked)
        with own_errors():
            await self._driver.execute("SAVEPOINT tcc_shared;")
            try:
                for shareable, values in together.items():
                    for row in await self._driver.fetchmany(shareable.text, values):
                        if found[row[-1]] is None:
                            found[row[-1]] = row[:-1]
            except Exception as error:
                if not is_of_a_statement(error):
                    raise
                await self._driver.execute("ROLLBACK TO SAVEPOINT tcc_shared;")
                return None
        return found

    async def commit(self, changes: Changes) -> None:
        """See `Rows.commit`."""
        if not self._driver.is_in_transaction():
            raise FenceUnavailable(ENDED)
        with own_errors():
            for change, entries in changes.items():
                if len(entries) == 1:
                    await self._driver.execute(_CHANGES[change], *entries[0])
                else:
                    await self._driver.executemany(_CHANGES[change], entries)
            try:
                done = await self._driver.execute("COMMIT;")
            except Exception as error:
                raise FenceUnavailable(f"the commit's result is unknown: {error}") from error
            self._open = False
            if done != "COMMIT":  # so PostgreSQL ends a transaction in which a statement has failed
                raise FenceUnavailable(f"the transaction was not committed: the database answered {done}")

    async def end(self) -> None:
        """See `Rows.end`."""
        if self._open:
            await self._driver.execute("ROLLBACK;")
            self._open = False
