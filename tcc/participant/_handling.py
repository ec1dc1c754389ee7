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
from tcc.participant._branch import current_run
from tcc.participant._call import Call
from tcc.participant._context import PhaseContext
from tcc.participant._limits import TimeLimits


class Handling:
    """Runs the handlers of a participant.

    Args:
        clock: unix seconds, from which a reservation that expires is counted.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._limits = TimeLimits()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, method: BoundMethod, call: Call, context: PhaseContext, record: Record | None) -> Result:
        """Runs a handler within its time; gives its serialised reply, or a Try's refusal.

        Args:
            method: the handler's.
            call: what it is called for.
            context: what it gets.
            record: the branch's row before.

        Raises:
            HandlerStopped: it ended with a status that does not refuse, ran out of time, or could not be given its
                request.
            Exception: its bug.
        """
        try:
            request = method.decode(call.request)
        except Exception as error:
            return _undecodable(method, error)
        task = None if self._loop is None else asyncio.current_task(self._loop)
        if task is None or self._loop is None:  # else the loop of before, which need not be asked for: a system call
            self._loop = asyncio.get_running_loop()
            task = asyncio.current_task(self._loop)
            assert task is not None  # noqa: S101  a coroutine runs in one
        cancelled = task.cancelling()
        context.start(task, None if record is None else record.reply or b"")
        token = current_run.set(context)
        self._limits.add(context, self._loop)
        answer: object = None
        failure: Exception | None = None
        try:
            answer = await method.run(request, context)
        except asyncio.CancelledError as error:
            if task.cancelling() > cancelled + context.expired:
                raise
            if not context.expired:
                failure = RuntimeError("the handler raised CancelledError, though nobody cancelled it")
                failure.__cause__ = error
        except Exception as error:
            failure = error
        finally:
            self._limits.remove(context)
            if context.expired:
                task.uncancel()
            current_run.reset(token)
        if failure is not None or context.touched:
            refusal = _judge(method, context, failure)
            if refusal is not None:
                return refusal
        reply = method.encode(answer)
        if context.touched and method.phase is Phase.TRY:
            expires_in = context.expires_in
            if expires_in is not None:
                return Expiring(reply, self._clock() + expires_in)
        return reply


def _judge(method: BoundMethod, context: PhaseContext, failure: Exception | None) -> Refusal | None:
    """What a handler that did not simply return has said: its refusal, or None for a reply that stands.

    Raises:
        HandlerStopped, Exception: as `Handling.run`.
    """
    tries = method.phase is Phase.TRY
    if context.expired:  # also where the handler caught its cancellation and went on
        raise HandlerStopped(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"the handler of {method.path} ran out of time and was rolled back"
        ) from failure
    if context.failed:  # also where the handler caught its abort and went on
        text = context.details()
        if not text and failure is not None and not isinstance(failure, grpc.aio.AbortError):
            text = f"{type(failure).__name__}: {failure}"
        code, text, details = context.code(), bounded(text), context.status_details
        if tries and code in Refused.CODES:
            return Refusal(code, text, details)
        raise HandlerStopped(code, text, details, context.own_trailers) from failure
    if isinstance(failure, Refused):
        if tries:
            return Refusal(failure.code, bounded(failure.text))
        raise HandlerStopped(failure.code, bounded(failure.text)) from failure
    if failure is not None:
        raise failure
    return None


def _undecodable(method: BoundMethod, error: Exception) -> Refusal:
    code = grpc.StatusCode.INVALID_ARGUMENT
    text = bounded(f"the request of {method.path} cannot be decoded: {error}")
    details = wire.error_details(code, text, wire.UNDECODABLE)
    if method.phase is Phase.TRY:
        return Refusal(code, text, details)
    raise HandlerStopped(code, text, details) from error


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
