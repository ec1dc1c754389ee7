"""The line to the manager: sends a call until it is answered and says what the answer means, in the SDK's errors.

The law: after an attempt that may have arrived, only the manager's verdict on the transaction itself ends the doubt.
Anything else is OutcomeUnknown, even a refusal: it may be a refusal of the repeat alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc.aio

from tcc.client import _mapping
from tcc.client._repeat import Answered, NoAnswer, NothingSent, Pace, repeated
from tcc.client._transport import Transport
from tcc.errors import ManagerUnavailable, OutcomeUnknown

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

Attempt = Callable[[RequestT, float], Awaitable[ResponseT]]


class Line:
    """What Manager and its transactions share.

    Attributes:
        transport: sends single attempts.
        connect: seconds that a call may wait for a connection before anything is sent.
        margin: seconds beyond a transaction's own time that its answer is waited for.
        pace: how fast calls are repeated.
    """

    def __init__(self, transport: Transport, connect: float, margin: float, pace: Pace) -> None:
        self.transport = transport
        self.connect = connect
        self.margin = margin
        self.pace = pace
        self._kept: set[asyncio.Task[None]] = set()

    async def write(
        self,
        gid: str,
        attempt: Attempt[RequestT, ResponseT],
        request: RequestT,
        allowed: float,
        *,
        connect: float | None = None,
    ) -> ResponseT:
        """Makes a call that may change the transaction.

        Args:
            gid: the transaction.
            attempt: the transport's method.
            request: its request.
            allowed: seconds from the first attempt on.
            connect: seconds that the first attempt may wait for a connection; None: as for a new transaction.

        Raises:
            ManagerUnavailable: nothing was sent, or every attempt was turned away for lack of room.
            OutcomeUnknown: it may or may not have been carried out.
            TransactionCancelled, GidReused, TransactionMixed: the manager's verdict.
            ManagerError: the manager refused the call.
        """

        def again(error: grpc.aio.AioRpcError) -> bool:
            return error.code() in _mapping.UNANSWERED and _mapping.verdict(gid, error) is None

        try:
            return await self.repeat(attempt, request, allowed, again, connect=connect)
        except NothingSent:
            raise ManagerUnavailable(
                f"no connection to the manager: nothing was sent for transaction {gid}; is the address right, and is "
                "the manager running?"
            ) from None
        except NoAnswer as unanswered:
            raise OutcomeUnknown(gid, _unknown(gid, str(unanswered))) from unanswered.__cause__
        except Answered as answered:
            error = answered.error
            if (verdict := _mapping.verdict(gid, error)) is not None:
                raise verdict from None  # it says all that the status said, in words
            text = f"{error.code().name}: {error.details()}"
            if answered.doubtful:
                raise OutcomeUnknown(gid, _unknown(gid, text)) from error
            if error.code() in _mapping.UNANSWERED:
                raise ManagerUnavailable(
                    f"the manager took nothing of transaction {gid} in {allowed:.1f} s: {text}"
                ) from error
            raise _mapping.manager_error(error) from error

    async def read(self, attempt: Attempt[RequestT, ResponseT], request: RequestT, allowed: float) -> ResponseT:
        """Makes a call that only reads.

        Raises:
            ManagerUnavailable: no answer within `allowed` seconds.
            ManagerError: the manager refused the call.
        """

        def again(error: grpc.aio.AioRpcError) -> bool:
            return error.code() in _mapping.UNREAD

        try:
            return await self.repeat(attempt, request, allowed, again)
        except NothingSent:
            raise ManagerUnavailable(
                "no connection to the manager: is the address right, and is the manager running?"
            ) from None
        except NoAnswer as unanswered:
            raise ManagerUnavailable(f"the manager gave no answer: {unanswered}") from unanswered.__cause__
        except Answered as answered:
            raise _mapping.manager_error(answered.error) from answered.error

    def repeat(
        self,
        attempt: Attempt[RequestT, ResponseT],
        request: RequestT,
        allowed: float,
        again: Callable[[grpc.aio.AioRpcError], bool],
        *,
        connect: float | None = None,
    ) -> Coroutine[Any, Any, ResponseT]:
        """`repeated`, over this line."""
        return repeated(
            attempt,
            request,
            transport=self.transport,
            allowed=allowed,
            connect=min(self.connect, allowed) if connect is None else connect,
            again=again,
            pace=self.pace,
        )

    def keep(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Starts work that goes on when its caller is cancelled; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        return task

    async def close(self) -> None:
        """Finishes what was kept, then hangs up."""
        while self._kept:
            await asyncio.wait(self._kept)
        await self.transport.close()


def _unknown(gid: str, why: str) -> str:
    return f"no answer about transaction {gid} ({why}): it may be decided either way; ask again with the same gid"
