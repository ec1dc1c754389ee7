"""`tcc.plan`: a channel on which calling a Try through the ordinary stub names a branch and sends nothing.

The law: a planned call belongs to one transaction. It may be executed again under the same gid, which repeats and
can do no harm; under another gid it would be a second reservation, and is refused. A call that never reaches
`execute` is a mistake in the calling code, and is said to be one when it is thrown away.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, Never, NoReturn, TypeVar

import grpc
import grpc.aio

from tcc import wire
from tcc.client._branches import Branch, BranchChannel
from tcc.client._views import Wait, wire_wait
from tcc.errors import NeverExecutedWarning, UsageError
from tcc.streams import varint
from tcc.v1 import manager_pb2

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class PlannedCall(grpc.aio.UnaryUnaryCall[RequestT, ReplyT], Generic[RequestT, ReplyT]):
    """What a stub on `tcc.plan` returns for a Try: a branch, to be given to `Manager.execute`.

    To the type checker it is the call that the stub promises, so that `execute` knows the type of each reply. It can
    neither be awaited nor cancelled: nothing has been sent.

    Attributes:
        branch: participant, methods, request bytes, step, timeout and metadata.
    """

    _gid: str | None = None
    _handed_over = True  # until __init__ is done: a call that failed to be built is not missed

    def __init__(self, branch: Branch[ReplyT]) -> None:
        self.branch = branch
        self._handed_over = False

    def __repr__(self) -> str:
        where = f" of transaction {self._gid}" if self._gid else ""
        return f"<planned call of {self.branch.action.try_method} at {self.branch.participant}{where}>"

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self._handed_over:
            _warn(
                f"{self!r} was never executed, so nothing was sent: pass it to manager.execute",
                NeverExecutedWarning,
                source=self,
                stacklevel=2,
            )

    def __await__(self) -> Generator[Any, None, ReplyT]:
        self._refuse("be awaited")

    def cancel(self) -> bool:
        """Refused: nothing was sent."""
        self._refuse("be cancelled")

    def cancelled(self) -> bool:
        """False: nothing was sent."""
        return False

    def done(self) -> bool:
        """False: nothing was sent."""
        return False

    def time_remaining(self) -> float | None:
        """The Try's timeout, in seconds, which has not begun; None where it has none."""
        return self.branch.timeout

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Refused: nothing was sent."""
        self._refuse("call back")

    async def initial_metadata(self) -> Never:
        """Refused: nothing was sent."""
        self._refuse("have metadata")

    async def trailing_metadata(self) -> Never:
        """Refused: nothing was sent."""
        self._refuse("have metadata")

    async def code(self) -> Never:
        """Refused: nothing was sent."""
        self._refuse("have a status")

    async def details(self) -> Never:
        """Refused: nothing was sent."""
        self._refuse("have a status")

    async def wait_for_connection(self) -> None:
        """Refused: nothing was sent."""
        self._refuse("be waited for")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"{self!r} cannot {what}: a planned call is carried out by manager.execute, whose result has its reply. "
            "To await single Tries, use manager.transaction"
        )


class PlanChannel(BranchChannel):
    """The type of `tcc.plan`."""

    def _named(self, participant: str) -> PlanChannel:
        return PlanChannel(participant)

    def _start(self, branch: Branch[ReplyT]) -> PlannedCall[Any, ReplyT]:
        return PlannedCall(branch)


plan = PlanChannel()
"""The channel for planning: `AccountsStub(tcc.plan).TryDebit(request)` names a branch and sends nothing."""


def serialised(gid: str, name: str, calls: Sequence[PlannedCall[Any, Any]], timeout: float, wait: Wait) -> bytes:
    """The bytes of the `ExecuteRequest` of these calls: put together, so that no branch is copied into its place."""
    told = gid.encode()
    parts = [_constant(name, wait, timeout), _GID, varint(len(told)), told]
    for call in calls:
        branch = call.branch.serialised()
        parts += (_BRANCHES, varint(len(branch)), branch)
    return b"".join(parts)


_FIELDS = manager_pb2.ExecuteRequest.DESCRIPTOR.fields_by_name
_GID: Final = varint(_FIELDS["gid"].number << 3 | 2)  # with a length, as the branches
_BRANCHES: Final = varint(_FIELDS["branches"].number << 3 | 2)


@lru_cache(256)
def _constant(name: str, wait: Wait, timeout: float) -> bytes:
    """What is the same for many plans."""
    return manager_pb2.ExecuteRequest(
        name=name, wait=wire_wait(wait), timeout=wire.seconds(timeout)
    ).SerializeToString()


def take(calls: Sequence[object]) -> list[PlannedCall[Any, Any]]:
    """The planned ones of these calls, which from now on count as handed over: whatever else is wrong with them."""
    planned = [call for call in calls if isinstance(call, PlannedCall)]
    for call in planned:
        call._handed_over = True
    return planned


def claim(calls: Sequence[object], gid: str) -> list[PlannedCall[Any, Any]]:
    """The planned calls of an execution, which from now on belong to `gid`.

    Raises:
        UsageError: there are none, one is no planned call, is there twice or belongs to another transaction, or two
            have the same step.
    """
    planned = take(calls)
    if not calls:
        raise UsageError("nothing to execute: pass what a stub on tcc.plan returned, one call for each branch")
    if len(planned) != len(calls):
        stranger = next(call for call in calls if not isinstance(call, PlannedCall))
        raise UsageError(
            f"{stranger!r} is no planned call: execute takes only what a stub on tcc.plan returned. A call through a "
            "stub on another channel has been sent already, and is no part of this transaction"
        )
    if len(set(map(id, planned))) != len(planned):
        raise UsageError("the same planned call is there twice: call the stub once for each branch")
    steps = [call.branch.step or str(position) for position, call in enumerate(planned)]
    if len(set(steps)) != len(steps):
        raise UsageError(f"steps must differ, and these are {', '.join(steps)}: a call without one has its position")
    for call in planned:
        if call._gid is not None and call._gid != gid:
            raise UsageError(
                f"{call!r} was executed already: pass gid={call._gid!r} to repeat that transaction, or call the stub "
                "again for a new one"
            )
    for call in planned:
        call._gid = gid
    return planned
