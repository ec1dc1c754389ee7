"""An interactive transaction: a context manager whose channel enlists and reserves branch by branch.

The laws:
- A clean exit confirms. It does so only if the client knows what became of every Try that it started: a branch that
  may be reserved without the client knowing could be confirmed against what the body believes, so then it cancels.
- An exception cancels and comes out unchanged; the Cancel is bounded, shielded, and if it fails only logged, since
  the manager cancels at the deadline anyway.
- A Confirm that may have left is never followed by a Cancel.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from tcc import wire
from tcc.client import _mapping
from tcc.client._branches import Branch, BranchChannel
from tcc.client._limits import check_size
from tcc.client._line import Line
from tcc.client._repeat import Answered, NoAnswer, NothingSent
from tcc.client._try_call import TryCall
from tcc.client._views import State, Wait, state_of, wire_wait
from tcc.errors import (
    BranchRefused,
    ManagerUnavailable,
    OutcomeUnknown,
    TransactionCancelled,
    TransactionMixed,
    UsageError,
)
from tcc.tracing import TraceParent
from tcc.v1 import manager_pb2

ReplyT = TypeVar("ReplyT")

CANCEL_TIMEOUT = 5.0
"""Seconds that leaving with an exception may take to tell the manager."""

_LOG = logging.getLogger("tcc.client")


class TransactionChannel(BranchChannel):
    """The type of `Transaction.channel`."""

    def __init__(self, transaction: Transaction, participant: str | None = None) -> None:
        super().__init__(participant)
        self._transaction = transaction

    def _named(self, participant: str) -> TransactionChannel:
        return TransactionChannel(self._transaction, participant)

    def _start(self, branch: Branch[ReplyT]) -> TryCall[Any, ReplyT]:
        return self._transaction._start(branch)


class Transaction:
    """What `Manager.transaction` gives; to be entered once.

    Entering raises ManagerUnavailable where nothing can have begun, and GidReused, TransactionCancelled or
    TransactionMixed where the gid was used before. A clean exit raises TransactionCancelled where the transaction was
    decided Cancel, OutcomeUnknown where no answer was had in time (ask again by `Manager.confirm(gid)`), and
    ManagerUnavailable where the Confirm was not sent, so that the manager cancels at the deadline.

    Attributes:
        gid: the transaction's id.
        name: its name.
        channel: a `grpc.aio.Channel` for the ordinary stubs of participants.
        state: TRYING until the exit; afterwards what the manager answered.
    """

    def __init__(self, line: Line, name: str, gid: str, timeout: float, wait: Wait) -> None:
        self.gid = gid
        self.name = name
        self.channel = TransactionChannel(self)
        self.state = State.TRYING
        self._line = line
        self._timeout = timeout
        self._wait = wait
        self._entered = False
        self._trace = TraceParent()
        self._end = 0.0  # on the loop's clock; set by the begin
        self._calls: list[TryCall[Any, Any]] = []
        self._steps: set[str] = set()
        self._doubts: dict[str, BranchRefused] = {}
        self._closed: str | None = "has not begun: enter it with `async with`"

    def __repr__(self) -> str:
        return f"<transaction {self.gid} {self.state.name}>"

    async def __aenter__(self) -> Self:
        if self._entered:
            raise UsageError(f"transaction {self.gid} was entered already: make a new one for each `async with`")
        line = self._line
        request = manager_pb2.BeginRequest(gid=self.gid, name=self.name)
        request.timeout.FromNanoseconds(round(self._timeout * 1e9))
        self._entered = True
        try:
            response = await line.write(self.gid, line.transport.begin, request, self._timeout + line.margin)
        except OutcomeUnknown as unknown:
            raise ManagerUnavailable(
                f"no answer to the begin of transaction {self.gid}: at most it has begun without branches, and is "
                f"cancelled at its deadline ({unknown})"
            ) from unknown.__cause__
        self.state = state_of(response.transaction)
        self._trace = TraceParent(response.transaction.traceparent)
        if self.state in (State.CANCELLING, State.CANCELLED):
            raise TransactionCancelled(self.gid)
        if self.state is State.MIXED:
            raise TransactionMixed(self.gid)
        self._end = asyncio.get_running_loop().time() + self._timeout
        self._closed = None
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        cancelled_here = self._closed is not None
        self._closed = self._closed or "is over"
        if exc_val is None and not cancelled_here:
            await self._leave()
        elif cancelled_here or self._is_own_cancelled(exc_val):
            await self._stop_waiting()
        else:
            await self._abandon(f"{type(exc_val).__name__} in the client")

    async def cancel(self, reason: str = "") -> None:
        """Cancels now; leaving the block does nothing more.

        Args:
            reason: for the history; at most 256 characters are kept.

        Raises:
            OutcomeUnknown, ManagerUnavailable: no answer; the manager cancels at the deadline.
            ManagerError: FAILED_PRECONDITION where somebody else confirmed it.
        """
        if self._closed is not None:
            raise UsageError(f"transaction {self.gid} {self._closed}")
        self._closed = "was cancelled: no branch can join it"
        await self._stop_waiting()
        await self._cancel(reason, self._left() + self._line.margin)

    def _start(self, branch: Branch[ReplyT]) -> TryCall[Any, ReplyT]:
        """Starts the Try of a new branch."""
        if self._closed is not None:
            raise UsageError(f"{branch.action.try_method}: transaction {self.gid} {self._closed}")
        step = branch.step or str(len(self._calls))
        if not branch.step and step in self._steps:
            raise UsageError(
                f"{branch.action.try_method}: its position, {step}, is the step of an earlier call already: name this "
                f"call's step too, with metadata (({wire.STEP!r}, ...),)"
            )
        self._steps.add(step)
        end = None if branch.timeout is None else asyncio.get_running_loop().time() + branch.timeout
        call: TryCall[Any, ReplyT] = TryCall(step, self._reserve(branch, step), end)
        self._calls.append(call)
        return call

    async def _reserve(self, branch: Branch[ReplyT], step: str) -> tuple[ReplyT, grpc.aio.Metadata]:
        line = self._line
        request = manager_pb2.TryRequest(gid=self.gid)
        request.branch.MergeFromString(branch.serialised())
        request.branch.step = step
        check_size(request.ByteSize(), self.gid)
        allowed = self._left() if branch.timeout is None else min(branch.timeout, self._left())

        def again(error: grpc.aio.AioRpcError) -> bool:
            return (
                error.code() in _mapping.UNANSWERED
                and not _mapping.is_participants(error)
                and _mapping.verdict(self.gid, error) is None
            )

        try:
            response, trailers = await line.repeat(
                partial(line.transport.attempt_try, parent=self._trace),
                request,
                allowed + line.margin,
                again,
                connect=allowed,
            )
        except NothingSent:
            raise self._unknown(branch, step, grpc.StatusCode.UNAVAILABLE, "no connection to the manager") from None
        except asyncio.CancelledError:
            self._doubt(branch, step, grpc.StatusCode.CANCELLED, "the client stopped waiting for the answer")
            raise
        except NoAnswer as unanswered:
            raise self._doubt(branch, step, grpc.StatusCode.DEADLINE_EXCEEDED, str(unanswered)) from unanswered
        except Answered as answered:
            error = answered.error
            refused = _mapping.branch_error(self.gid, step, branch.participant, branch.action.try_method, error)
            if refused is not None:
                self._doubts.pop(step, None)  # the manager has the branch in its log, and judges it itself
                raise refused from error
            if (verdict := _mapping.verdict(self.gid, error)) is not None:
                raise verdict from None
            failure = _mapping.manager_error(error)
            if answered.doubtful:
                self._doubt(branch, step, error.code(), str(failure))
            raise failure from error
        self._doubts.pop(step, None)
        return branch.reply(response.reply), trailers

    def _doubt(self, branch: Branch[Any], step: str, code: grpc.StatusCode, text: str) -> BranchRefused:
        """Notes that this branch may be reserved."""
        unknown = self._unknown(branch, step, code, text)
        self._doubts[step] = unknown
        return unknown

    def _unknown(self, branch: Branch[Any], step: str, code: grpc.StatusCode, text: str) -> BranchRefused:
        return BranchRefused(
            self.gid, step, branch.participant, branch.action.try_method, code, text, known=False, marked=False
        )

    async def _leave(self) -> None:
        try:
            for call in self._calls:
                await call._settled()
        except asyncio.CancelledError:
            await self._abandon("CancelledError in the client")
            raise
        for call in self._calls:
            failure = await call._settled()
            if failure is not None and not call._seen and not isinstance(failure, asyncio.CancelledError):
                await self._abandon(f"step {call.step} failed and was not awaited")
                raise failure
        if self._doubts:
            doubts = tuple(self._doubts.values())
            await self._abandon(f"the client does not know what became of step {doubts[0].step}")
            raise TransactionCancelled(self.gid, doubts, "CLIENT")
        await self._confirm()

    async def _confirm(self) -> None:
        line = self._line
        request = manager_pb2.ConfirmRequest(gid=self.gid, wait=wire_wait(self._wait))
        try:
            response = await line.write(
                self.gid,
                partial(line.transport.confirm, parent=self._trace),
                request,
                self._left() + line.margin,
                connect=self._left(),
            )
        except ManagerUnavailable as unavailable:
            raise ManagerUnavailable(
                f"the confirm of transaction {self.gid} was not taken, so it is cancelled at its deadline: "
                f"{unavailable}"
            ) from unavailable.__cause__
        except TransactionCancelled:
            self.state = State.CANCELLING
            raise
        self.state = state_of(response.transaction)
        if self.state is State.MIXED:
            raise TransactionMixed(self.gid)

    async def _abandon(self, reason: str) -> None:
        """Tells the manager to cancel, in a bounded time, whatever happens to the task that waits for it."""
        await asyncio.shield(self._line.keep(self._cancel_quietly(reason)))

    async def _cancel_quietly(self, reason: str) -> None:
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT):
                await self._stop_waiting()
                await self._cancel(reason, CANCEL_TIMEOUT)
        except Exception as error:  # the exception that ends the body matters more
            _LOG.warning(
                "transaction %s: cancel (%s) failed, the manager cancels at its deadline: %r", self.gid, reason, error
            )

    async def _stop_waiting(self) -> None:
        for call in self._calls:
            call.cancel()
        for call in self._calls:
            await call._settled()

    async def _cancel(self, reason: str, allowed: float) -> None:
        line = self._line
        request = manager_pb2.CancelRequest(gid=self.gid, reason=reason[:256])
        attempt = partial(line.transport.cancel, parent=self._trace)
        response = await line.write(self.gid, attempt, request, allowed)
        self.state = state_of(response.transaction)

    def _left(self) -> float:
        return max(self._end - asyncio.get_running_loop().time(), 0.0)

    def _is_own_cancelled(self, error: BaseException | None) -> bool:
        return isinstance(error, TransactionCancelled) and error.gid == self.gid
