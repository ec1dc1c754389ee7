"""The asking end of a stream of lists."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio

K = TypeVar("K", bound=Hashable)
A = TypeVar("A")

LIST_ITEMS: Final = 512
LIST_BYTES: Final = 1024 * 1024

_ASK_AGAIN: Final = 60.0
"""Seconds after which a server without the stream is asked for it again: it may have been replaced."""
_ITEM_TAG: Final = b"\x0a"
"""Field 1, with a length."""
_DOWN: Final = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError)


class NotOffered(Exception):
    """The server has no such stream; the item was not looked at."""


class StreamEnded(Exception):
    """The stream ended before the item was answered: nobody knows what became of it.

    Attributes:
        code: of the stream; no word on the item.
        details: the status message.
        trailers: the stream's trailing metadata; without any, gRPC made the status itself.
    """

    def __init__(self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details
        self.trailers = trailers


def _run_out(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def _is_told_to_end() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def listed(items: Iterable[bytes]) -> bytes:
    """The serialised message whose field 1 repeats these serialised items."""
    parts: list[bytes] = []
    for item in items:
        parts += (_ITEM_TAG, _varint(len(item)), item)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


class ListStream(Generic[K, A]):
    """Opens its stream with the first item, and again with the first one after it ended.

    Args:
        begin: opens a stream that takes serialised lists; see `listed`.
        answers: the answers in a message that came, each with its item's key.
        max_items: of one list.
        max_bytes: of one list; an item larger than this goes alone.

    Attributes:
        lists: that were sent.
        items: that were sent in them.
    """

    def __init__(
        self,
        begin: Callable[[], grpc.aio.StreamStreamCall[bytes, Any]],
        answers: Callable[[Any], Iterable[tuple[K, A]]],
        *,
        max_items: int = LIST_ITEMS,
        max_bytes: int = LIST_BYTES,
    ) -> None:
        self._begin = begin
        self._answers = answers
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[K, bytes, asyncio.Future[A]]] = deque()
        self._asked: dict[K, asyncio.Future[A]] = {}
        self._sender: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._missing_until = 0.0
        self._closed = False
        self.lists = 0
        self.items = 0

    @property
    def offered(self) -> bool:
        """Whether it is worth asking: the server has not said lately that it has no such stream."""
        return not self._missing_until or asyncio.get_running_loop().time() >= self._missing_until

    async def ask(self, key: K, item: bytes, timeout: float) -> A:
        """Sends an item with the next list, and waits for its answer. Cancelling it drops an item that has not left.

        Args:
            key: names the item among those that are under way.
            item: serialised.
            timeout: seconds.

        Raises:
            NotOffered: the server has no such stream, and did not look at the item.
            StreamEnded, TimeoutError: nobody knows what became of it.
        """
        if self._closed:
            raise StreamEnded(grpc.StatusCode.CANCELLED, "the stream was closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((key, item, future))
        if self._sender is None:
            self._sender = loop.create_task(self._run(), name="list-stream")
        else:
            self._wake()
        timer = loop.call_later(timeout, _run_out, future)
        try:
            return await future
        except StreamEnded as ended:
            if ended.code is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            self._missing_until = loop.time() + _ASK_AGAIN
            raise NotOffered from None
        except (TimeoutError, asyncio.CancelledError):
            self._asked.pop(key, None)
            raise
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Ends the stream; what is unanswered is unknown. Idempotent."""
        self._closed = True
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait({self._sender})

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _run(self) -> None:
        ended = StreamEnded(grpc.StatusCode.CANCELLED, "the stream was closed")
        try:
            ended = await self._one_stream()
        finally:
            self._sender = None
            left = [future for _, _, future in self._waiting] if self._closed else []
            left += self._asked.values()
            self._asked.clear()
            for future in left:
                if not future.done():
                    future.set_exception(ended)
        if self._waiting:  # never sent: they go out on a stream of their own
            self._sender = asyncio.get_running_loop().create_task(self._run(), name="list-stream")

    async def _one_stream(self) -> StreamEnded:
        """From the first item to the end, and why it ended."""
        loop = asyncio.get_running_loop()
        try:
            call = self._begin()
        except grpc.aio.UsageError as error:
            self._take()  # these count as asked, or a channel that is closed would be asked for ever
            return StreamEnded(grpc.StatusCode.CANCELLED, str(error))
        reader = loop.create_task(self._read(call), name="list-stream-reader")
        try:
            while not reader.done():
                batch = self._take()
                if batch:
                    self.lists += 1
                    self.items += len(batch)
                    await call.write(listed(batch))
                else:
                    self._idle = loop.create_future()
                    await self._idle
        except _DOWN:
            pass  # the stream is over, and its reader knows why
        except asyncio.CancelledError:
            if _is_told_to_end():
                call.cancel()
                reader.cancel()
                await asyncio.wait({reader})
                raise
            # gRPC cancels who writes on a channel that is closed; the reader hears of it too.
        return await reader

    def _take(self) -> list[bytes]:
        """The next list, in order of arrival; its items are asked from now on."""
        batch: list[bytes] = []
        size = 0
        waiting = self._waiting
        while waiting and len(batch) < self._max_items:
            key, item, future = waiting[0]
            if not future.done():
                if batch and size + len(item) > self._max_bytes:
                    break
                self._asked[key] = future
                batch.append(item)
                size += len(item)
            waiting.popleft()
        return batch

    async def _read(self, call: grpc.aio.StreamStreamCall[bytes, Any]) -> StreamEnded:
        """Hands out answers until the stream ends; gives why it did."""
        asked = self._asked
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                for key, answer in self._answers(message):
                    future = asked.pop(key, None)
                    if future is not None and not future.done():
                        future.set_result(answer)
            trailers = tuple(await call.trailing_metadata() or ())
            return StreamEnded(await call.code(), await call.details() or "the stream was ended", trailers)
        except grpc.aio.AioRpcError as error:
            return StreamEnded(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        except asyncio.CancelledError:
            if _is_told_to_end():
                raise
            return StreamEnded(grpc.StatusCode.CANCELLED, "the connection was closed")
        except Exception:
            call.cancel()  # what came cannot be read: nobody would answer the rest
            raise
        finally:
            self._wake()
