"""`tcc.branch()`: which branch a handler is working for."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from tcc.errors import UsageError
from tcc.fence import Phase

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Branch:
    """The branch of this Try, Confirm or Cancel.

    Attributes:
        namespace: the caller's; `default` until identities exist.
        gid: the transaction.
        step: the branch's id within it.
        phase: try, confirm or cancel.
        attempt: 1, 2, ...; counts deliveries, not runs of the handler.
        deadline: the transaction's, unix seconds; None where the caller did not say (Confirm and Cancel have none).
    """

    namespace: str
    gid: str
    step: str
    phase: Phase
    attempt: int
    deadline: float | None
    _reply: bytes | None = field(default=None, repr=False)

    def try_reply(self, message: type[M]) -> M:
        """What this branch's Try answered, in Confirm and Cancel.

            held = tcc.branch().try_reply(DebitReply).reservation_id

        Args:
            message: the Try's reply type.

        Raises:
            UsageError: in a Try, which has not answered yet.
        """
        if self._reply is None:
            raise UsageError("try_reply is for Confirm and Cancel: this Try has not answered yet")
        return message.FromString(self._reply)


class Run(Protocol):
    """A handler's run, which knows its branch if it is asked."""

    @property
    def branch(self) -> Branch:
        """The branch."""


current_run: ContextVar[Run | None] = ContextVar("tcc_run", default=None)


def branch() -> Branch:
    """The branch for which the handler that calls this runs.

    Raises:
        UsageError: outside of a Try, Confirm or Cancel handler.
    """
    run = current_run.get()
    if run is None:
        raise UsageError("tcc.branch() answers only within a Try, Confirm or Cancel handler of a ParticipantServer")
    return run.branch
