"""When a call to the manager is sent again, and when that ends.

The law: the ids and the content of a repeat are those of the first attempt, and a call that may have arrived is never
reported as if it had not. `NothingSent` is raised only if no attempt left this process.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
import grpc.aio

from tcc import wire
from tcc.client._mapping import status_details
from tcc.client._transport import Transport
from tcc.errors import UsageError

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class NothingSent(Exception):
    """The connection did not come up in time, and no attempt was made."""


class NoAnswer(Exception):
    """Attempts were made, and none was answered; the cause is the last one's error, where there is one."""


class Answered(Exception):
    """The manager answered with a status that is no reason to repeat.

    Attributes:
        error: the status.
        doubtful: an earlier attempt went unanswered, and may have been carried out.
    """

    def __init__(self, error: grpc.aio.AioRpcError, doubtful: bool) -> None:
        super().__init__(error, doubtful)
        self.error = error
        self.doubtful = doubtful


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast calls are repeated, in seconds: random between none and a bound that doubles from `first` to `cap`."""

    first: float = 0.05
    cap: float = 1.0
    rng: Callable[[], float] = random.random

    def delay(self, attempt: int) -> float:
        """How long to wait after attempt 1, 2, ..."""
        return min(self.cap, self.first * 2.0 ** min(attempt - 1, 30)) * self.rng()


async def repeated(
    attempt: Callable[[RequestT, float], Awaitable[ResponseT]],
    request: RequestT,
    *,
    transport: Transport,
    allowed: float,
    connect: float,
    again: Callable[[grpc.aio.AioRpcError], bool],
    pace: Pace,
) -> ResponseT:
    """Makes one call until it is answered.

    Args:
        attempt: makes one attempt within the seconds that it is given.
        request: the same for all attempts.
        transport: says when the connection is ready.
        allowed: seconds from the first attempt until the last is given up.
        connect: seconds that the first attempt may wait for a connection.
        again: whether this status is a reason to repeat.
        pace: how fast.

    Raises:
        NothingSent: no connection.
        NoAnswer: time is over.
        Answered: a status that is not to be repeated, or one that says each time that nothing was begun.
        UsageError: the Manager was closed before anything was sent.
    """
    if not transport.is_ready() and not await transport.ready(connect):
        raise NothingSent
    clock = asyncio.get_running_loop().time
    end = clock() + allowed
    count = 0
    last: grpc.aio.AioRpcError | None = None
    doubtful = False
    while (left := end - clock()) > 0:
        if count and not await _ready_again(transport, left):
            break
        try:
            return await attempt(request, max(end - clock(), 0.001))
        except grpc.aio.AioRpcError as error:
            if not again(error):
                raise Answered(error, doubtful) from error
            last = error
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            # Closing a connection cancels its calls: the task that waited was not cancelled, so it is told the truth.
            task = asyncio.current_task()
            if transport.is_closed() and not (task and task.cancelling()):
                raise NoAnswer("the Manager was closed while this call was under way") from error
            raise
        count += 1
        details = status_details(last)
        doubtful = doubtful or not _turned_away(last, details)
        wait = max(pace.delay(count), wire.retry_delay(details) or 0.0)
        await asyncio.sleep(min(wait, max(end - clock(), 0.0)))
    if last is not None and not doubtful:
        raise Answered(last, doubtful) from last
    raise NoAnswer(f"{last.code().name}: {last.details()}" if last else "no time left") from last


async def _ready_again(transport: Transport, left: float) -> bool:
    try:
        return await transport.ready(left)
    except UsageError:  # closed meanwhile: no news for a call that may have arrived
        return False


def _turned_away(error: grpc.aio.AioRpcError, details: bytes) -> bool:
    """The manager itself said that it has no room, so this attempt began nothing."""
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and wire.error_info(details) is not None
