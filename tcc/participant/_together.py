"""Calls that came in one list, and go through lock, fence and answer as one thing: in one task, by one word to each.

The law: what is told of a call is what would have been told had it come alone, and none waits for another longer than
the fence's list makes it wait. So a call that cannot go along (its lock is held elsewhere, its handler failed, its list
could not settle it) goes on by itself from where it stands, in a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, Generic, TypeVar

from tcc.fence import Listed, Phase, Refusal, SharedVisits, Verdict, VisitAlone, VisitLater
from tcc.lock import Busy, Held, ListLock
from tcc.participant._answer import TryAnswer, settle
from tcc.participant._binding import BoundMethod
from tcc.participant._call import Call, NotABranch, Peer, from_command
from tcc.participant._context import PhaseContext
from tcc.participant._runtime import First, ParticipantRuntime, Transport, lock_key, outcome_of
from tcc.v1.participant_pb2 import Command, Outcome

_log = logging.getLogger("tcc.participant")

T = TypeVar("T")
A = TypeVar("A")

_MOST: Final = 512
"""Calls that go together; a lock takes no more at once."""


class Delivery(Generic[T]):
    """One call on its way. For the fence it stands where a future would: that is what gets its verdict.

    Attributes:
        call: what is asked.
        method: whose handler runs.
        context: what the handler gets.
        listed: the visit.
        tag: by which whoever brought the call knows it.
        span: in which it runs, to be entered for each of its runs.
        held: its lock, while it is taken.
        result: the fence's word.
        traceback: of an error, as it came: each that raises one which befell a whole list would add its own lines.
    """

    __slots__ = ("_together", "call", "context", "held", "listed", "method", "result", "span", "tag", "traceback")

    def __init__(
        self,
        together: Together[T, Any],
        call: Call,
        method: BoundMethod,
        context: PhaseContext,
        listed: Listed,
        span: AbstractContextManager[object],
        tag: T,
    ) -> None:
        self._together = together
        self.call = call
        self.method = method
        self.context = context
        self.listed = listed
        self.span = span
        self.tag = tag
        self.held: Held | None = None
        self.result: Verdict | Exception | None = None
        self.traceback: TracebackType | None = None

    def done(self) -> bool:
        """Nobody waits for it any more."""
        return self.listed.dropped

    def set_result(self, result: Verdict) -> None:
        """The fence has spoken."""
        self.result = result
        self._together.hear(self)

    def set_exception(self, error: Exception) -> None:
        """It has said why there is no verdict, or not yet."""
        self.result = error
        self.traceback = error.__traceback__
        self._together.hear(self)

    def cancel(self) -> None:
        """It will not speak any more: the event loop ends."""
        self._together.cancel()


class Together(ABC, Generic[T, A]):
    """The calls of one list: `add` those that may go together, then `run`.

    Args:
        runtime: whose.
        shared: its `shares`.
        tell: is given answers as they are ready, each with the tag of its call.

    Attributes:
        untold: the tags of what is not answered. What is left when `run` has returned has failed here, and is logged.
    """

    _phase: ClassVar[Phase]

    def __init__(
        self,
        runtime: ParticipantRuntime,
        shared: SharedVisits,
        tell: Callable[[Sequence[tuple[T, A]]], None],
    ) -> None:
        self._runtime = runtime
        self._shared = shared
        self._lock = runtime.list_lock
        self._tell = tell
        self._left: dict[Delivery[T], None] = {}
        self._in_fence = 0
        self._heard: list[Delivery[T]] = []
        self._waiter: asyncio.Future[None] | None = None
        self._alone: set[asyncio.Task[None]] = set()

    @abstractmethod
    def _method(self, call: Call) -> BoundMethod | Refusal:
        """The method that a call is for."""

    @abstractmethod
    def _answer(self, one: Delivery[T], verdict: Verdict) -> A:
        """What the fence's verdict says."""

    @abstractmethod
    async def _end(self, one: Delivery[T], first: First) -> A:
        """The answer of one that goes on by itself."""

    def __len__(self) -> int:
        return len(self._left)

    @property
    def untold(self) -> Sequence[T]:
        """See the class."""
        return [one.tag for one in self._left]

    def add(self, call: Call, transport: Transport | None, span: AbstractContextManager[object], tag: T) -> bool:
        """Takes a call along, if it may go with others.

        Args:
            call: as it was read.
            transport: the gRPC context, where there is one.
            span: in which its handler is to run; entered more than once, if need be.
            tag: whatever `tell` is to know it by.
        """
        method = self._method(call)
        if not isinstance(method, BoundMethod) or not method.batchable or len(self._left) == _MOST:
            return False
        context = self._runtime.begin(call, transport)
        with span:
            listed = Listed(call.visit, self._runtime.body(method, call, context), copy_context())
        self._left[Delivery(self, call, method, context, listed, span, tag)] = None
        return True

    async def run(self) -> None:
        """Brings them all to their answers. Cancelled, it stops what is left, and returns when that has stopped."""
        self._runtime.enter(len(self._left))
        try:
            self._visit(list(self._left) if self._lock is None else await self._locked(self._lock))
            while self._in_fence:
                if not self._heard:
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
                self._take_up()
            while self._alone:
                await asyncio.wait(self._alone)
        finally:
            if self._left:
                await self._give_up(list(self._left))

    async def _locked(self, lock: ListLock) -> Sequence[Delivery[T]]:
        asked = list(self._left)
        keys = [lock_key(one.call.visit) for one in asked]
        free = []
        for one, held in zip(asked, await lock.acquire_all(keys, self._runtime.lock_for(self._phase)), strict=True):
            if isinstance(held, Busy):  # alone it waits a moment, and asks again
                self._go_alone(one, partial(self._runtime.through, one.call.visit, one.listed.body, one.method))
            else:
                one.held = held
                free.append(one)
        return free

    def _visit(self, visiting: Sequence[Delivery[T]]) -> None:
        self._in_fence += len(visiting)
        self._shared.visit_all([(one.listed, one) for one in visiting])

    def hear(self, one: Delivery[T]) -> None:
        """The fence has spoken of one. What there is to do about it waits until it has spoken of all of its list."""
        self._heard.append(one)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def cancel(self) -> None:
        """The fence speaks no more."""
        if self._waiter is not None:
            self._waiter.cancel()

    def _take_up(self) -> None:
        """Answers what the fence has settled."""
        heard, self._heard = self._heard, []
        self._in_fence -= len(heard)
        settled: list[tuple[Delivery[T], Verdict]] = []
        later: list[Delivery[T]] = []
        for one in heard:
            result = one.result
            if isinstance(result, Verdict):
                settled.append((one, result))
            elif isinstance(result, VisitLater):
                later.append(one)
            else:
                self._go_alone(one, partial(self._visit_alone, one))
        if later:
            self._visit(later)
        if settled:
            self._release([one for one, _ in settled])
            self._answered([(one, self._answer(one, verdict)) for one, verdict in settled])

    def _answered(self, answers: Sequence[tuple[Delivery[T], A]]) -> None:
        for one, _ in answers:
            del self._left[one]
            self._runtime.leave(one.context)
        self._tell([(one.tag, answer) for one, answer in answers])

    def _release(self, deliveries: Sequence[Delivery[T]]) -> None:
        if self._lock is not None:
            self._lock.release_all([one.held for one in deliveries if one.held is not None])
            for one in deliveries:
                one.held = None

    # What goes on by itself

    def _go_alone(self, one: Delivery[T], first: First) -> None:
        with one.span:
            task = asyncio.get_running_loop().create_task(self._end_alone(one, first))
        self._alone.add(task)
        task.add_done_callback(self._alone.discard)

    async def _end_alone(self, one: Delivery[T], first: First) -> None:
        try:
            answer = await self._end(one, first)
        except Exception:
            _log.exception("a call of a list could not be answered")
        else:
            self._answered([(one, answer)])

    async def _visit_alone(self, one: Delivery[T]) -> Verdict:
        """What its list made of it, or a transaction of its own where that was nothing."""
        try:
            if isinstance(one.result, VisitAlone):
                return await self._shared.alone(one.listed)
            assert isinstance(one.result, Exception)  # noqa: S101  a verdict is taken up at once
            raise one.result.with_traceback(one.traceback)
        finally:
            self._release((one,))

    async def _give_up(self, left: Sequence[Delivery[T]]) -> None:
        for task in self._alone:
            task.cancel()
        await self._shared.give_up([one.listed for one in left])
        while self._alone:
            try:
                await asyncio.wait(self._alone)
            except asyncio.CancelledError:  # once more: they hear of it, and locks are to be given back all the same
                for task in self._alone:
                    task.cancel()
        self._release(left)
        for one in left:
            self._runtime.leave(one.context)


class TriesTogether(Together[T, TryAnswer]):
    """Tries."""

    _phase = Phase.TRY

    def _method(self, call: Call) -> BoundMethod | Refusal:
        return self._runtime.try_method(call)

    def _answer(self, one: Delivery[T], verdict: Verdict) -> TryAnswer:
        return self._runtime.try_answer(one.context, verdict)

    async def _end(self, one: Delivery[T], first: First) -> TryAnswer:
        return await self._runtime.answer_try(one.call, one.method, one.context, first)


class CommandsTogether(Together[T, Outcome]):
    """Confirms and Cancels.

    Args:
        runtime, shared, tell: as of `Together`.
        peer: where they came from, for their handlers.
    """

    _phase = Phase.CONFIRM  # a Cancel gets the same time

    def __init__(
        self,
        runtime: ParticipantRuntime,
        shared: SharedVisits,
        tell: Callable[[Sequence[tuple[T, Outcome]]], None],
        *,
        peer: Peer,
    ) -> None:
        super().__init__(runtime, shared, tell)
        self._peer = peer

    def add_command(
        self, command: Command, timeout: float | None, span: AbstractContextManager[object], tag: T
    ) -> bool:
        """As `add`, for a command as it came."""
        try:
            call = from_command(command, timeout, self._peer)
        except NotABranch:
            return False
        return self.add(call, None, span, tag)

    def _method(self, call: Call) -> BoundMethod | Refusal:
        return self._runtime.settling_method(call)

    def _answer(self, one: Delivery[T], verdict: Verdict) -> Outcome:
        outcome = outcome_of(one.call)
        settle(outcome, verdict)
        return outcome

    async def _end(self, one: Delivery[T], first: First) -> Outcome:
        outcome = outcome_of(one.call)
        await self._runtime.settle(one.call, one.method, one.context, first, outcome)
        return outcome
