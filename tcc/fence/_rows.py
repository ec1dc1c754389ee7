"""The fence's rows in SQL: the few statements of CONTRACT.md, written out, and what each needs.

Both databases run the same statements, past SQLAlchemy and straight through the driver: they are most of what a visit
costs. Handlers' own statements go through SQLAlchemy as ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias

from sqlalchemy.exc import DBAPIError

from tcc.errors import UsageError
from tcc.fence._rules import AFTER, Phase, State
from tcc.fence._seam import FenceBusy, FenceUnavailable, Record, Refusal, Visit
from tcc.fence._shareable import First, Shareable
from tcc.wire import STATUS_BY_NUMBER

Key: TypeAlias = tuple[str, str, str]

INSERTED: Final = "namespace, gid, branch, state, action, request_hash, tried_at, updated_at, expires_at"
"""The columns of a row as it is inserted. `expires_at` is NULL at first; named, a table without it shows at once."""

LOOKED_AT: Final = (
    "state, action, request_hash, reply, refusal_code, refusal_text, refusal_details, tried_at, expires_at"
)

_OLD_TABLE: Final = (
    "the table tcc_fence was made by an older version and has no column expires_at: "
    "ALTER TABLE tcc_fence ADD COLUMN expires_at BIGINT"
)


class Change(Enum):
    """A statement that writes what became of a visit. The value is its text, with ? for each parameter."""

    RESERVED = "UPDATE tcc_fence SET reply = ?, expires_at = ? WHERE namespace = ? AND gid = ? AND branch = ?"
    REFUSED = (
        "UPDATE tcc_fence SET state = 'REFUSED', refusal_code = ?, refusal_text = ?, refusal_details = ? "
        "WHERE namespace = ? AND gid = ? AND branch = ?"
    )
    SETTLED = "UPDATE tcc_fence SET state = ?, updated_at = ? WHERE namespace = ? AND gid = ? AND branch = ?"
    FORGOTTEN = "DELETE FROM tcc_fence WHERE namespace = ? AND gid = ? AND branch = ?"

    __hash__ = object.__hash__  # Enum's own is a call in Python


Changes: TypeAlias = dict[Change, list[tuple[Any, ...]]]
"""Parameters of the statements to run; of each, once for each entry."""


Asked: TypeAlias = tuple[Shareable, Mapping[str, object]]
"""A handler's statement and its parameters."""


class Rows(Protocol):
    """The rows of some branches in one transaction: `find` begins it, `commit` commits, `end` comes in any case."""

    async def find(self, visits: Sequence[Visit], now: int) -> Sequence[Record | None]:
        """The branches' rows, locked; where there was none (None), it stands inserted as the phase would leave it.

        Args:
            visits: of different branches, in the order of their keys.
            now: unix milliseconds.

        Raises:
            FenceBusy: the wait for a row, or to write at all, ran out.
            FenceUnavailable: the database failed.
        """

    async def share(self, asked: Sequence[Asked]) -> Sequence[First] | None:
        """Runs handlers' statements, those with one text together; one that fails undoes all of them, and nothing else.

        Returns:
            The first row that each has, in their order; None where one failed.

        Raises:
            FenceBusy: a row was busy, or two transactions wait for each other.
            FenceUnavailable: the database failed.
        """

    async def commit(self, changes: Changes) -> None:
        """Writes, and commits.

        Raises:
            FenceBusy: nothing was committed, since a row or the database was busy.
            FenceUnavailable: the database failed, or the commit's result is unknown.
        """

    async def end(self) -> None:
        """Rolls back what was not committed, and lets go of the connection.

        What it raises means that the connection is not to be used again.
        """


_STATES: Final = {state.value: state for state in State}
_AFTER: Final = {phase: state.value for phase, state in AFTER.items()}


def key_of(visit: Visit) -> Key:
    """A branch's key."""
    return visit.namespace, visit.gid, visit.branch


def inserted(visit: Visit, now: int) -> tuple[Any, ...]:
    """Values of `INSERTED` but for the last."""
    return (
        visit.namespace,
        visit.gid,
        visit.branch,
        _AFTER[visit.phase],
        visit.action,
        visit.request_hash,
        now if visit.phase is Phase.TRY else None,
        now,
    )


def record_of(row: Sequence[Any]) -> Record:
    """The record that values of `LOOKED_AT` say."""
    state, action, request_hash, reply, code, words, details, tried_at, expires_at = row
    return Record(
        _STATES[state],
        action,
        request_hash,
        reply,
        None if code is None else Refusal(STATUS_BY_NUMBER[code], words or "", details or b""),
        None if tried_at is None else tried_at / 1000,
        None if expires_at is None else expires_at / 1000,
    )


def change_to(visit: Visit, record: Record, now: int) -> tuple[Change, tuple[Any, ...]]:
    """What to write so that a row says what its business code did.

    Args:
        visit: whose business code ran.
        record: as the row shall be.
        now: unix milliseconds.
    """
    key = visit.namespace, visit.gid, visit.branch
    if record.state is State.TRIED:
        expires_at = None if record.expires_at is None else int(record.expires_at * 1000)
        return Change.RESERVED, (record.reply, expires_at, *key)
    refusal = record.refusal
    if refusal is not None:
        return Change.REFUSED, (refusal.code.value[0], refusal.text, refusal.details, *key)
    return Change.SETTLED, (_AFTER[visit.phase], now, *key)


# Transactions that others would end.

ENDED: Final = "the transaction was ended by somebody else, and nothing is recorded"

_ENDS_ALL: Final = re.compile(
    r"(\s|;|--[^\n]*\n|/\*.*?\*/)*"  # comments may come first
    r"(COMMIT|END|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!\s+((TRANSACTION|WORK)\s+)?TO\b))\b",
    re.IGNORECASE | re.DOTALL,
)


def check_statement(statement: str) -> None:
    """Looks at a handler's statement before it goes to the database.

    Raises:
        UsageError: it would end the fence's transaction.
    """
    if _ENDS_ALL.match(statement):
        raise UsageError(f"the transaction is the fence's, and {statement.strip()!r} would end it: leave that to it")


# What a database's error says.

_SQLITE_BUSY: Final = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED; their extended codes share the low byte
_POSTGRES_BUSY: Final = {"55P03", "40001", "40P01"}  # lock_not_available, serialization_failure, deadlock_detected

_POSTGRES_GONE: Final = ("08", "57P")
"""What the codes of a lost connection and of a server that ends begin with."""


@contextmanager
def own_errors() -> Iterator[None]:
    """Maps what the driver raises in the fence's own statements."""
    try:
        yield
    except (FenceBusy, FenceUnavailable):
        raise
    except Exception as error:
        raise is_busy(error) or FenceUnavailable(_failure(error)) from error


def is_busy(error: BaseException | None) -> FenceBusy | None:
    """The FenceBusy that a driver's error means; None where it is of another kind."""
    code = getattr(error, "sqlite_errorcode", None)
    busy = code & 0xFF in _SQLITE_BUSY if isinstance(code, int) else sqlstate(error) in _POSTGRES_BUSY
    return FenceBusy(f"the database is busy: {error}") if busy else None


def momentary(error: Exception) -> FenceBusy | FenceUnavailable | None:
    """What a handler's error says of the database's state rather than of its statement; None where it says nothing."""
    if isinstance(error, FenceBusy | FenceUnavailable):
        return error
    if not isinstance(error, DBAPIError):
        # Some errors of a connection that broke in the middle come out of asyncpg as they are, not as SQLAlchemy's.
        if type(error).__module__.partition(".")[0] != "asyncpg":
            return None
        code = sqlstate(error)
        if isinstance(code, str) and not code.startswith(_POSTGRES_GONE):
            return is_busy(error)
        return FenceUnavailable(f"the database's connection broke: {error}")
    if error.connection_invalidated:
        return FenceUnavailable(f"the database's connection broke: {error.orig}")
    return is_busy(error.orig)


def is_of_a_statement(error: Exception) -> bool:
    """Whether an error that PostgreSQL gave is due to the statement and its values: another one may well succeed."""
    code = sqlstate(error)
    return isinstance(code, str) and not code.startswith(_POSTGRES_GONE) and is_busy(error) is None


def sqlstate(error: BaseException | None) -> object:
    """PostgreSQL's code of an error; None where it has none."""
    error = error.orig if isinstance(error, DBAPIError) else error
    return getattr(error, "sqlstate", None)


def _failure(error: Exception) -> str:
    if "expires_at" in str(error):
        return _OLD_TABLE
    return f"the fence's database failed: {error}"
