"""Running a handler: its request decoded, its time limited, and however it ends brought into one shape.

These are the bodies that the fence runs inside its transaction. What a body returns is recorded; what it raises is
rolled back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio

from tcc import wire
from tcc.errors import Refused
from tcc.fence import Body, Expiring, Phase, Record, Refusal, Result
from tcc.participant._answer import HandlerStopped, bounded
from tcc.participant._binding import BoundMethod
from tcc.participant._branch import Branch, current_branch
from tcc.participant._call import Call
from tcc.participant._context import PhaseContext


async def try_body(
    method: BoundMethod, call: Call, context: PhaseContext, clock: Callable[[], float], record: Record | None
) -> Result:
    """Runs a Try's handler; gives its serialised reply, or its refusal.

    Args:
        method: the handler's.
        call: what it is called for.
        context: what it gets.
        clock: unix seconds, from which a reservation that expires is counted.
        record: the branch's row before.

    Raises:
        HandlerStopped: it ended with a status that does not refuse, or ran out of time.
        Exception: its bug.
    """
    try:
        reply = await run_handler(method, call, context, record)
    except Refused as refused:
        return Refusal(refused.code, bounded(refused.text))
    except HandlerStopped as stopped:
        if stopped.code in Refused.CODES:
            return Refusal(stopped.code, stopped.text, stopped.details)
        raise
    expires_in = context.expires_in
    return reply if expires_in is None else Expiring(reply, clock() + expires_in)


async def run_handler(method: BoundMethod, call: Call, context: PhaseContext, record: Record | None) -> bytes:
    """Runs a handler within its time; gives its serialised reply.

    Raises:
        Refused: a Try's.
        HandlerStopped: it ended with a status, ran out of time, or could not be given its request.
        Exception: its bug.
    """
    try:
        request = method.decode(call.request)
    except Exception as error:
        code = grpc.StatusCode.INVALID_ARGUMENT
        text = bounded(f"the request of {method.path} cannot be decoded: {error}")
        raise HandlerStopped(code, text, wire.error_details(code, text, wire.UNDECODABLE)) from error
    context.start()
    visit = call.visit
    reply = None if record is None else record.reply or b""
    branch = Branch(visit.namespace, visit.gid, visit.branch, visit.phase, call.attempt, call.deadline, reply)
    token = current_branch.set(branch)
    limit = _Limit(context.time_remaining())
    answer: object = None
    failure: Exception | None = None
    try:
        answer = await method.run(request, context)
    except asyncio.CancelledError as error:
        if limit.others_cancelled():
            raise
        if not limit.expired:
            failure = RuntimeError("the handler raised CancelledError, though nobody cancelled it")
            failure.__cause__ = error
    except Exception as error:
        failure = error
    finally:
        limit.over()
        current_branch.reset(token)
    if limit.expired:  # also where the handler caught its cancellation and went on
        context.stop()
        raise HandlerStopped(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"the handler of {method.path} ran out of time and was rolled back"
        ) from failure
    if context.failed:  # also where the handler caught its abort and went on
        raise _ended_by_handler(context, failure) from failure
    if isinstance(failure, Refused) and visit.phase is not Phase.TRY:
        raise HandlerStopped(failure.code, bounded(failure.text)) from failure
    if failure is not None:
        raise failure
    return method.encode(answer)


class _Limit:
    """As `asyncio.timeout` for one await of the task that makes it, at a third of the cost: each handler has one."""

    __slots__ = ("_cancelled", "_task", "_timer", "expired")

    def __init__(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine runs in one
        self._task = task
        self._cancelled = task.cancelling()
        self.expired = False
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._expire)

    def others_cancelled(self) -> bool:
        """Whether somebody else cancelled the task meanwhile."""
        return self._task.cancelling() > self._cancelled + self.expired

    def over(self) -> None:
        """The await is over, however it ended."""
        self._timer.cancel()
        if self.expired:
            self._task.uncancel()

    def _expire(self) -> None:
        self.expired = True
        self._task.cancel()


def refusing(refusal: Refusal) -> Body:
    """A body that refuses without a handler."""

    async def body(_: Record | None) -> Refusal:
        return refusal

    return body


def stopping(refusal: Refusal) -> Body:
    """A body for a Confirm or Cancel that has no handler."""

    async def body(_: Record | None) -> bytes:
        raise HandlerStopped(refusal.code, refusal.text, refusal.details)

    return body


def _ended_by_handler(context: PhaseContext, failure: Exception | None) -> HandlerStopped:
    text = context.details()
    if not text and failure is not None and not isinstance(failure, grpc.aio.AbortError):
        text = f"{type(failure).__name__}: {failure}"
    return HandlerStopped(context.code(), bounded(text), context.status_details, context.own_trailers)
