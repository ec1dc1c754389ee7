"""One Try of an interactive transaction, as the `grpc.aio` call that the stub promises.

It starts when it is made, like every gRPC call. Cancelling it, or the task that awaits it, only stops the waiting: the
branch may be reserved all the same, and the transaction takes that into account when it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from tcc.errors import ManagerError

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class TryCall(grpc.aio.UnaryUnaryCall[RequestT, ReplyT], Generic[RequestT, ReplyT]):
    """What a stub on a transaction's channel returns for a Try.

    Awaiting it gives the reply, or raises BranchRefused, TransactionCancelled or ManagerError.

    Attributes:
        step: the branch's id within its transaction.
    """

    def __init__(
        self, step: str, work: Coroutine[Any, Any, tuple[ReplyT, grpc.aio.Metadata]], end: float | None
    ) -> None:
        self.step = step
        self._loop = asyncio.get_running_loop()
        self._end = end
        self._task = self._loop.create_task(work)
        self._seen = False

    def __await__(self) -> Generator[Any, None, ReplyT]:
        self._seen = True
        reply, _ = yield from self._task.__await__()
        return reply

    def cancel(self) -> bool:
        """Stops waiting for the answer; False where it is there already."""
        return self._task.cancel()

    def cancelled(self) -> bool:
        """The waiting was stopped."""
        return self._task.cancelled()

    def done(self) -> bool:
        """There is an answer, or the waiting was stopped."""
        return self._task.done()

    def time_remaining(self) -> float | None:
        """Seconds left of the Try's timeout; None where it has none of its own."""
        return None if self._end is None else max(self._end - self._loop.time(), 0.0)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back with this call when it is done."""
        self._task.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Empty: the manager passes a participant's status and trailing metadata, not its initial metadata."""
        await self._failure()
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """The participant's trailing metadata."""
        failure = await self._failure()
        if failure is None:
            return self._task.result()[1]
        if isinstance(failure, grpc.aio.AioRpcError):
            return failure.trailing_metadata() or grpc.aio.Metadata()
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        """The participant's status; the manager's own where the Try did not reach a participant."""
        match await self._failure():
            case None:
                return grpc.StatusCode.OK
            case grpc.aio.AioRpcError() as refused:
                return refused.code()
            case ManagerError() as error:
                return error.code
            case asyncio.CancelledError():
                return grpc.StatusCode.CANCELLED
            case _:
                return grpc.StatusCode.ABORTED

    async def details(self) -> str:
        """The status message."""
        match await self._failure():
            case None:
                return ""
            case grpc.aio.AioRpcError() as refused:
                return refused.details() or ""
            case failure:
                return str(failure)

    async def wait_for_connection(self) -> None:
        """Returns at once: it is the Manager that is connected."""

    async def _failure(self) -> BaseException | None:
        """Waits for the end, and says how it failed, without raising that."""
        self._seen = True
        return await self._settled()

    async def _settled(self) -> BaseException | None:
        if not self._task.done():
            await asyncio.wait([self._task])
        if self._task.cancelled():
            return asyncio.CancelledError()
        return self._task.exception()
