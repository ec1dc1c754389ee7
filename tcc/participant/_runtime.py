"""The one runtime of a participant: every Try, Confirm and Cancel goes through here, whichever way it came.

The order of work is CONTRACT.md's: lock, the fence's transaction with the handler in it, answer, release. Two laws:
a refusal is marked only where the fence recorded it; and what was rolled back, or may not have been committed, is never
told as done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from tcc import wire
from tcc.actions import Action
from tcc.fence import Body, Fence, FenceBusy, FenceUnavailable, ListFence, Phase, Refusal, SharedVisits, Verdict, Visit
from tcc.lock import Busy, ListLock, Lock, NoLock
from tcc.participant._answer import (
    HandlerStopped,
    TryAnswer,
    bounded,
    busy_answer,
    not_a_branch,
    reasoned,
    settle,
    settle_busy,
    settle_stopped,
    stopped_answer,
    try_answer,
)
from tcc.participant._binding import BoundMethod
from tcc.participant._call import Call, Metadata, NotABranch, Peer, from_command, from_metadata
from tcc.participant._context import PhaseContext
from tcc.participant._handling import Handling, refusing, stopping
from tcc.v1 import participant_pb2, transaction_pb2

_log = logging.getLogger("tcc.participant")

_FAILURES_BEFORE_REFUSAL: Final = 3
"""A handler's bug in so many attempts of one Try refuses it."""

_PB_PHASES: Final = {Phase.CONFIRM: transaction_pb2.PHASE_CONFIRM, Phase.CANCEL: transaction_pb2.PHASE_CANCEL}

First: TypeAlias = Callable[[], Awaitable[Verdict]]
"""Brings a call to the fence's verdict, or raises what became of it."""
_Way: TypeAlias = Callable[[Visit, Body], Awaitable[Verdict]]

Transport: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class ParticipantRuntime:
    """Runs the phases of a server's actions.

    Args:
        fence: makes effects happen once.
        lock: keeps double deliveries apart.
        handler_timeout: seconds after which a handler of Confirm or Cancel is stopped and rolled back.
        try_timeout: the same for Try, where it is less.
        clock: unix seconds.

    Attributes:
        list_lock: the lock, if it takes many at once.
    """

    def __init__(
        self,
        fence: Fence,
        lock: Lock,
        *,
        handler_timeout: float = 30.0,
        try_timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fence = fence
        self._shared = SharedVisits(fence) if isinstance(fence, ListFence) else None
        self._lock = None if type(lock) is NoLock else lock
        self.list_lock = lock if isinstance(lock, ListLock) else None
        self._handling = Handling(clock)
        self._timeouts = {
            Phase.TRY: min(try_timeout, handler_timeout),
            Phase.CONFIRM: handler_timeout,
            Phase.CANCEL: handler_timeout,
        }
        self._clock = clock
        self._methods: dict[str, BoundMethod] = {}
        self._under_way = 0
        self._closing = False
        self._idle = asyncio.Event()

    def add(self, methods: Iterable[BoundMethod]) -> None:
        """Takes in the methods of a service."""
        self._methods.update((method.path, method) for method in methods)

    def method(self, path: str) -> BoundMethod | None:
        """The action method at a path; None where there is none."""
        return self._methods.get(path)

    @property
    def shares(self) -> SharedVisits | None:
        """The way of calls that go together; None where each has to go by itself."""
        return None if self._closing or self._lock is not self.list_lock else self._shared

    @property
    def actions(self) -> tuple[Action, ...]:
        """All actions, in the order in which they were added."""
        return tuple(dict.fromkeys(method.action for method in self._methods.values()))

    async def attempt(
        self,
        path: str,
        request: bytes,
        metadata: Metadata,
        *,
        timeout: float | None = None,
        peer: Peer = "in-process",
        transport: Transport | None = None,
    ) -> TryAnswer:
        """One Try.

        Args:
            path: of the Try method, `/package.Service/Method`.
            request: the serialised request.
            metadata: the call's, with the `tcc-` entries.
            timeout: seconds that the caller waits; None: no limit of its own.
            peer: where the call came from, for the handler.
            transport: the gRPC context, where there is one.
        """
        try:
            call = from_metadata(Phase.TRY, path, request, metadata, timeout, peer)
        except NotABranch as error:
            return not_a_branch(error)
        return await self.tried(call, transport)

    def tried(self, call: Call, transport: Transport | None) -> Awaitable[TryAnswer]:
        """One Try, as it was read.

        Args:
            call: the Try.
            transport: the gRPC context, where there is one.
        """
        method = self.try_method(call)
        context = self.begin(call, transport)
        body = refusing(method) if isinstance(method, Refusal) else self.body(method, call, context)
        self.enter(1)
        return self.answer_try(call, method, context, partial(self.through, call.visit, body, method))

    async def answer_try(
        self, call: Call, method: BoundMethod | Refusal, context: PhaseContext, first: First
    ) -> TryAnswer:
        """Answers a Try that is under way, which is over then.

        Args:
            call, method, context: what runs, or why nothing does.
            first: brings it to its verdict; what it raises is answered too.
        """
        try:
            try:
                verdict = await first()
            except (HandlerStopped, FenceBusy, FenceUnavailable):
                raise
            except Exception as error:
                text = self._failed(method, call, error)
                if call.attempt < _FAILURES_BEFORE_REFUSAL:
                    raise HandlerStopped(grpc.StatusCode.INTERNAL, text) from error
                refusal = reasoned(grpc.StatusCode.ABORTED, text, wire.HANDLER_FAILED)
                verdict = await self.through(call.visit, refusing(refusal), refusal)
            return self.try_answer(context, verdict)
        except HandlerStopped as stopped:
            return stopped_answer(stopped)
        except FenceBusy as busy:
            return busy_answer(busy)
        except FenceUnavailable as error:
            _log.warning("Try of %s: %s", _name(call.visit), error, exc_info=error)
            return TryAnswer(grpc.StatusCode.UNAVAILABLE, bounded(str(error)))
        finally:
            self.leave(context)

    def try_answer(self, context: PhaseContext, verdict: Verdict) -> TryAnswer:
        """What a verdict answers to a Try."""
        return try_answer(verdict, self._clock, context.own_trailers)

    async def command(
        self, command: participant_pb2.Command, *, timeout: float | None = None, peer: Peer = "command"
    ) -> participant_pb2.Outcome:
        """One Confirm or Cancel. Never raises for what the command holds or its handler does.

        Args:
            command: as the manager sent it.
            timeout: seconds that the caller waits; None: no limit of its own.
            peer: where the command came from, for the handler.
        """
        try:
            call = from_command(command, timeout, peer)
        except NotABranch as error:
            outcome = participant_pb2.Outcome(
                namespace=command.namespace,
                gid=command.gid,
                branch=command.branch,
                phase=command.phase,
                attempt=command.attempt,
            )
            settle_stopped(outcome, HandlerStopped(grpc.StatusCode.INVALID_ARGUMENT, bounded(str(error))))
            return outcome
        outcome = outcome_of(call)
        await self._settle(call, self.settling_method(call), outcome, None)
        return outcome

    async def call_settling(
        self,
        phase: Phase,
        path: str,
        request: bytes,
        metadata: Metadata,
        *,
        timeout: float | None,
        peer: Peer,
        transport: Transport,
    ) -> tuple[participant_pb2.Outcome, bytes]:
        """One Confirm or Cancel that came as a gRPC call of its method.

        Gives the outcome, and the status details by which gRPC says it.
        """
        method = self._methods.get(path)
        try_method = "" if method is None else method.action.try_method
        outcome = participant_pb2.Outcome(phase=_PB_PHASES[phase])
        try:
            call = from_metadata(phase, try_method, request, metadata, timeout, peer)
        except NotABranch as error:
            code, text, details = not_a_branch(error)[:3]
            settle_stopped(outcome, HandlerStopped(code, text))
            return outcome, details
        body = method if method is not None else self._unknown(path)
        return outcome, await self._settle(call, body, outcome, transport)

    def stop_taking(self) -> None:
        """From now on, what arrives is told to come again later."""
        self._closing = True
        self._note_idle()

    async def idle(self) -> None:
        """Waits, after `stop_taking`, until nothing is under way."""
        await self._idle.wait()

    def _settle(
        self,
        call: Call,
        method: BoundMethod | Refusal,
        outcome: participant_pb2.Outcome,
        transport: Transport | None,
    ) -> Awaitable[bytes]:
        context = self.begin(call, transport)
        body = stopping(method) if isinstance(method, Refusal) else self.body(method, call, context)
        self.enter(1)
        return self.settle(call, method, context, partial(self.through, call.visit, body, method), outcome)

    async def settle(
        self,
        call: Call,
        method: BoundMethod | Refusal,
        context: PhaseContext,
        first: First,
        outcome: participant_pb2.Outcome,
    ) -> bytes:
        """Writes what became of a Confirm or Cancel into its outcome; gives the status details that say the same.

        Args:
            call, method, context, first: as of `answer_try`.
            outcome: so far it names the branch.
        """
        try:
            return settle(outcome, await first())
        except HandlerStopped as stopped:
            return settle_stopped(outcome, stopped)
        except FenceBusy as busy:
            return settle_busy(outcome, busy)
        except FenceUnavailable as error:
            _log.warning("%s of %s: %s", call.visit.phase, _name(call.visit), error, exc_info=error)
            return settle_stopped(outcome, HandlerStopped(grpc.StatusCode.UNAVAILABLE, bounded(str(error))))
        except Exception as error:
            text = self._failed(method, call, error)
            return settle_stopped(outcome, HandlerStopped(grpc.StatusCode.INTERNAL, text))
        finally:
            self.leave(context)

    # The parts of a call's way.

    def begin(self, call: Call, transport: Transport | None) -> PhaseContext:
        """What a call's handler gets. Its time begins to run."""
        limit = self._timeouts[call.visit.phase]
        if call.timeout is not None and call.timeout < limit:
            limit = call.timeout
        return PhaseContext(call, time.monotonic() + limit, transport)

    def enter(self, calls: int) -> None:
        """So many more calls are under way."""
        self._under_way += calls

    def leave(self, context: PhaseContext) -> None:
        """One of them is over; repeating it does nothing."""
        if context.done():
            return
        context.finish()
        self._under_way -= 1
        if self._closing:
            self._note_idle()

    def body(self, method: BoundMethod, call: Call, context: PhaseContext) -> Body:
        """What the fence runs for a call."""
        return partial(self._handling.run, method, call, context)

    def _note_idle(self) -> None:
        if self._closing and not self._under_way:
            self._idle.set()

    def through(self, visit: Visit, body: Body, method: BoundMethod | Refusal) -> Awaitable[Verdict]:
        """The way through lock and fence: in a transaction of its own, or in a shared one where the method allows."""
        if self._closing:
            raise FenceBusy("this participant is shutting down", retry_after=1.0)
        way = self._fence.visit
        if self._shared is not None and isinstance(method, BoundMethod) and method.batchable:
            way = self._shared.visit
        return way(visit, body) if self._lock is None else self._locked(self._lock, visit, body, way)

    async def _locked(self, lock: Lock, visit: Visit, body: Body, way: _Way) -> Verdict:
        held = await lock.acquire(lock_key(visit), self.lock_for(visit.phase))
        if isinstance(held, Busy):
            raise FenceBusy("another delivery of this branch is being worked on", held.remaining)
        try:
            return await way(visit, body)
        finally:
            await held.release()

    def lock_for(self, phase: Phase) -> float:
        """Seconds for which a phase takes the lock."""
        return self._timeouts[phase] + 5.0

    def try_method(self, call: Call) -> BoundMethod | Refusal:
        """The method that a Try is for, or why it is refused before its handler sees it."""
        method = self._methods.get(call.methods[0])
        if method is None or method.phase is not Phase.TRY:
            return self._unknown(call.methods[0])
        _, confirm, cancel = call.methods
        action = method.action
        if confirm not in ("", action.confirm_method) or cancel not in ("", action.cancel_method):
            return reasoned(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{action.try_method} is confirmed by {action.confirm_method} and cancelled by {action.cancel_method}, "
                f"not by {confirm} and {cancel}",
                wire.WRONG_METHODS,
            )
        if call.deadline is not None and call.deadline < self._clock() - self._fence.retention / 2:
            return reasoned(
                grpc.StatusCode.FAILED_PRECONDITION,
                "this Try is so late that what was known of its branch may have been forgotten",
                wire.LATE_TRY,
            )
        return method

    def settling_method(self, call: Call) -> BoundMethod | Refusal:
        """The method that a command is for, or why there is none."""
        tried = self._methods.get(call.methods[0])
        if tried is None or tried.phase is not Phase.TRY:
            return self._unknown(call.methods[0])
        action = tried.action
        if call.methods != (action.try_method, action.confirm_method, action.cancel_method):
            return reasoned(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{', '.join(call.methods)} are not the methods of one action of this participant",
                wire.WRONG_METHODS,
            )
        return self._methods[action.confirm_method if call.visit.phase is Phase.CONFIRM else action.cancel_method]

    def _unknown(self, path: str) -> Refusal:
        known = ", ".join(action.try_method for action in self.actions) or "none"
        return reasoned(
            grpc.StatusCode.UNIMPLEMENTED,
            f"{path} is no method of an action here; the actions are: {known}",
            wire.WRONG_METHODS,
        )

    def _failed(self, method: BoundMethod | Refusal, call: Call, error: Exception) -> str:
        """Logs a handler's bug, and says it in one line."""
        path = method.path if isinstance(method, BoundMethod) else call.methods[0]
        _log.error(
            "the handler of %s failed for %s, attempt %d: rolled back",
            path,
            _name(call.visit),
            call.attempt,
            exc_info=error,
        )
        return bounded(f"the handler of {path} failed: {type(error).__name__}: {error}")


def lock_key(visit: Visit) -> str:
    """The key of a branch's lock."""
    return f"{{{visit.namespace}/{visit.gid}}}:{visit.branch}"


def outcome_of(call: Call) -> participant_pb2.Outcome:
    """The outcome of a command, before it is known."""
    visit = call.visit
    return participant_pb2.Outcome(
        namespace=visit.namespace,
        gid=visit.gid,
        branch=visit.branch,
        phase=_PB_PHASES[visit.phase],
        attempt=call.attempt,
    )


def _name(visit: Visit) -> str:
    return f"{visit.namespace}/{visit.gid}/{visit.branch}"
