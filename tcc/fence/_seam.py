"""The seam of the fence: what a branch's visit brings, what it gets, and the Protocol in between.

The law that every implementation keeps: the business code's effect and the row that says so become durable together or
not at all, and visits of one branch happen one after the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, runtime_checkable

import grpc

from tcc.errors import TccError
from tcc.fence._rules import AFTER, TABLE, Phase, Rule, State, same_content

if TYPE_CHECKING:
    import asyncio

DEFAULT_RETENTION: Final = 30 * 24 * 3600.0
"""Seconds for which rows of finished branches are kept: 30 days."""

DEFAULT_ROW_WAIT: Final = 5.0
"""Seconds that a visit waits for another visit of the same row, or for SQLite's one writer, before it is BUSY."""

BUSY_HINT: Final = 0.2
"""Seconds that a BUSY from the row asks to wait before the next delivery."""


@dataclass(slots=True, unsafe_hash=True)  # nobody changes one; to be frozen would cost each of them fourfold
class Visit:
    """One phase of one branch knocks.

    Attributes:
        namespace, gid, branch: the key.
        phase: what is asked for.
        action: path of the action's Try; empty where the caller does not know it.
        request_hash: the manager's hash of the logged request; only compared.
    """

    namespace: str
    gid: str
    branch: str
    phase: Phase
    action: str
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a Try was refused, as it is recorded and answered each time.

    Attributes:
        code: the gRPC status; one of `Refused.CODES`.
        text: the status message.
        details: the `grpc-status-details-bin` trailer, or empty.
    """

    code: grpc.StatusCode
    text: str
    details: bytes = b""


@dataclass(frozen=True, slots=True)
class Expiring:
    """A Try's reply whose reservation does not hold for ever.

    Attributes:
        reply: the serialised reply.
        expires_at: when the reservation ends by itself, unix seconds.
    """

    reply: bytes
    expires_at: float


@dataclass(slots=True, unsafe_hash=True)  # frozen in all but name, see `Visit`
class Record:
    """A fence row.

    Attributes:
        state: where the branch stands.
        action: path of the action's Try.
        request_hash: as the first visit brought it.
        reply: the Try's serialised reply, where the Try ran.
        refusal: where the state is REFUSED.
        tried_at: when the Try was recorded, unix seconds; None where a Cancel came first.
        expires_at: when the reservation ends by itself, unix seconds; None where it does not.
    """

    state: State
    action: str
    request_hash: bytes
    reply: bytes | None = None
    refusal: Refusal | None = None
    tried_at: float | None = None
    expires_at: float | None = None


@dataclass(slots=True, unsafe_hash=True)  # frozen in all but name, see `Visit`
class Verdict:
    """What became of a visit: the rule that was followed, and the row as it stands now (None: no row)."""

    rule: Rule
    record: Record | None


Result: TypeAlias = bytes | Expiring | Refusal
"""What business code ends with: the serialised reply; or, of a Try, a reply that expires or a refusal."""

Body: TypeAlias = Callable[[Record | None], Awaitable[Result]]
"""The business code of a visit: gets the row before the visit; gives its result.

Raising means: roll back, record nothing.
"""


class FenceBusy(TccError):
    """Another visit holds the row, or the database is too busy; nothing was done.

    Attributes:
        retry_after: seconds after which another delivery makes sense.
    """

    def __init__(self, message: str, retry_after: float = BUSY_HINT) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class FenceUnavailable(TccError):
    """The fence's database does not work: the visit was rolled back, or its commit's result is unknown."""


class VisitAlone(TccError):
    """A visit of a list came to nothing because of the list: nothing of it stays, and it is to be repeated alone."""


class VisitLater(VisitAlone):
    """The list was over before this visit's turn: it was not begun, and may go with another list."""


class Handling(Protocol):
    """Business code under way."""

    def stop(self) -> object:
        """Cancels it."""


@dataclass(slots=True, eq=False)
class Listed:
    """One visit of a list.

    Attributes:
        visit: what is asked.
        body: its business code.
        context: in which the body runs; nothing else may be running in it.
        handling: the body, while it runs and waits for something.
        over: set once its list is; None before it is in one.
        dropped: nobody waits for it any more: its body need not run.
    """

    visit: Visit
    body: Body
    context: Context
    handling: Handling | None = None
    over: asyncio.Event | None = None
    dropped: bool = False

    def drop(self) -> None:
        """Nobody waits for it any more: its body is stopped, and need not begin."""
        self.dropped = True
        if self.handling is not None:
            self.handling.stop()


class Fence(Protocol):
    """State of (namespace, gid, branch) in the service's own transaction."""

    @property
    def retention(self) -> float:
        """Seconds for which rows of finished branches are kept."""

    async def visit(self, visit: Visit, body: Body) -> Verdict:
        """Finds the row, applies the table, and runs `body` where it says RUN, all in one transaction.

        Whatever `body` raises comes out unchanged, after its effects were rolled back.

        Raises:
            FenceBusy: the wait for the row ran out.
            FenceUnavailable: the database failed, or the commit's result is unknown.
        """

    async def close(self) -> None:
        """Gives back what the fence holds open. Repeating it does nothing."""


@runtime_checkable
class ListFence(Fence, Protocol):
    """A fence that can take many visits in one transaction. Fences that cannot are visited one by one."""

    async def visit_many(self, listed: Sequence[Listed]) -> Sequence[Verdict | Exception]:
        """Makes visits of different branches in one transaction; their bodies run one after the other.

        Each visit has a result of its own, in the order of the list: its verdict, or what `visit` would have raised. A
        body that raises or refuses undoes its own effects and nobody else's. `VisitAlone` stands where the list
        itself failed, or may have been committed without an answer.
        """


def record_after(visit: Visit, record: Record | None, result: Result, now: float) -> Record:
    """The row that the business code's result leaves.

    Args:
        visit: whose business code ran.
        record: the row before; None for a Try.
        result: what the business code gave.
        now: unix seconds.
    """
    if record is not None:
        return Record(
            AFTER[visit.phase],
            record.action,
            record.request_hash,
            record.reply,
            record.refusal,
            record.tried_at,
            record.expires_at,
        )
    if isinstance(result, Refusal):
        return Record(State.REFUSED, visit.action, visit.request_hash, None, result, now)
    if isinstance(result, Expiring):
        return Record(State.TRIED, visit.action, visit.request_hash, result.reply, None, now, result.expires_at)
    return Record(State.TRIED, visit.action, visit.request_hash, result, None, now)


def rule_for(record: Record | None, visit: Visit) -> Rule:
    """What to do with a visit that finds this row."""
    if record is None:
        return TABLE[None, visit.phase]
    if not same_content(record.action, record.request_hash, visit.action, visit.request_hash):
        return Rule.MISMATCH
    return TABLE[record.state, visit.phase]
