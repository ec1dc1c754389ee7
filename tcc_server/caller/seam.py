"""The Caller seam: what it takes to call a Try, and what comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tcc.tracing import TraceParent
from tcc_server.core.model import Ask, Key, Status


@dataclass(slots=True)  # as the model's values, not frozen only because frozen ones are dear to make
class TryCall:
    """One attempt of a Try.

    Attributes:
        timeout: seconds that it may take.
        deadline_at: the transaction's deadline, unix seconds.
        trace: the transaction's trace context.
    """

    key: Key
    ask: Ask
    attempt: int
    timeout: float
    deadline_at: float
    trace: TraceParent = TraceParent()  # noqa: RUF009  a tuple


@dataclass(slots=True)
class TryReply:
    """How the attempt ended.

    Attributes:
        trailers: the participant's trailing metadata, to be passed through.
    """

    status: Status
    reply: bytes = b""
    marked: bool = False
    expires_in: float | None = None
    retry_after: float | None = None
    trailers: Sequence[tuple[str, str | bytes]] = ()


class Caller(Protocol):
    """The seam. Implementations: `tcc_server.caller.grpc`, and the in-process one of `tcc.testing`."""

    def call(self, call: TryCall) -> Awaitable[TryReply]:
        """Send the attempt and wait for its end. Never raises for what the participant or the network does: that is
        a status. A cancelled call may have arrived. Best a future: a coroutine costs its caller a task."""


class Sent(Protocol):
    """An attempt under way."""

    def cancel(self) -> object:
        """Nobody waits for its end any more. It may have arrived."""


@runtime_checkable
class CallingBack(Caller, Protocol):
    """A Caller that can do without a future for each attempt, and without the turn of the loop that one takes."""

    def send(self, call: TryCall, told: Callable[[TryReply], object]) -> Sent:
        """As `call`; its end is told once, never from within this call, and not at all after `cancel`."""
