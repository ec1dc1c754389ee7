"""The asking end of a stream of lists."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio

K = TypeVar("K", bound=Hashable)
A = TypeVar("A")

_log = logging.getLogger("tcc.streams")

LIST_ITEMS: Final = 64
"""Of one list. More cost less CPU an item (512: a fifth less of all), but have both ends wait for each other where
processors are to spare: while a list is made, written and read, nobody works on what is in it.
"""
LIST_BYTES: Final = 1024 * 1024

_ASK_AGAIN: Final = 60.0
"""Seconds after which a server without the stream is asked for it again: it may have been replaced."""
ACCEPTED: Final = "tcc-lists"
"""Initial metadata by which a server accepts a stream of lists."""
_FIRST_WORD: Final = 1.0
"""Seconds that a stream's first list waits for it; a server that says nothing gets the list then."""
_NEVER: Final = float("inf")
_EARLY: Final = 0.001
"""Seconds by which a timer may be early; loops count whole milliseconds."""
_LOOK_EVERY: Final = 0.01
"""Seconds at least between two looks for items whose time is over: with many under way a look is not free."""
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


class Asked(Generic[K, A]):
    """An item that waits to leave, or for its answer."""

    __slots__ = ("answered", "end", "item", "key")

    def __init__(self, key: K, item: bytes, end: float, answered: Callable[[A | Exception], object]) -> None:
        self.key = key
        self.item = item
        self.end = end
        self.answered: Callable[[A | Exception], object] | None = answered

    def cancel(self) -> None:
        """Nobody waits for it any more; if it has not left yet, it stays here."""
        self.answered = None
        self.item = b""  # it may be large, and the rest stays until its answer comes or its time is over

    def answer(self, answer: A | Exception) -> None:
        """Tells who asked, once."""
        answered, self.answered = self.answered, None
        if answered is not None:
            try:
                answered(answer)
            except Exception:  # a bug of who asked: the others on the stream are to hear their answers
                _log.exception("an answer on a stream could not be taken")


def _settle(future: asyncio.Future[A], answer: A | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


async def _let_it_answer(call: grpc.aio.StreamStreamCall[bytes, Any]) -> None:
    """Waits until the server has accepted the stream, which `ListServer` says at once.

    A write that meets a refusal would hide it: grpc.aio then makes an INTERNAL of what was UNIMPLEMENTED.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_FIRST_WORD):
            told = await call.initial_metadata()
            if ACCEPTED not in {entry[0] for entry in told or ()}:
                await asyncio.sleep(_FIRST_WORD)  # a refusal: its status is on its way


def _is_told_to_end() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def listed(items: Iterable[bytes]) -> bytes:
    """The serialised message whose field 1 repeats these serialised items."""
    parts: list[bytes] = []
    for item in items:
        parts += (_ITEM_TAG, varint(len(item)), item)
    return b"".join(parts)


def varint(number: int) -> bytes:
    """A number, zero or more, as protobuf writes it."""
    return _VARINTS[number] if number < _VARINTS_KNOWN else _varint(number)


def _varint(number: int) -> bytes:
    if 0x80 <= number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


_VARINTS_KNOWN: Final = 1024
_VARINTS: Final = tuple(map(_varint, range(_VARINTS_KNOWN)))
"""Those of nearly all lengths: making one costs more than all else about an item of a list."""


class ListStream(Generic[K, A]):
    """Opens its stream with the first item, and again with the first one after it ended.

    Args:
        begin: opens a stream that takes serialised lists; see `listed`.
        answers: the answers in a message that came, each with its item's key.
        max_items: of one list.
        max_bytes: of one list; an item larger than this goes alone.

    Attributes:
        works: the server has answered here, and has not said since that it has no such stream.
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
        self._waiting: deque[Asked[K, A]] = deque()
        self._asked: dict[K, Asked[K, A]] = {}
        self._sender: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = _NEVER
        self._missing_until = 0.0
        self._closed = False
        self.works = False
        self.lists = 0
        self.items = 0

    @property
    def offered(self) -> bool:
        """Whether it is worth asking: the server has not said lately that it has no such stream."""
        return not self._missing_until or asyncio.get_running_loop().time() >= self._missing_until

    async def ask(self, key: K, item: bytes, timeout: float) -> A:
        """Sends an item with the next list, and waits for its answer. Cancelling it drops an item that has not left.

        Args:
            key: names the item among those that are under way. Where it leaves under the key of another, that one is
                unknown from then on.
            item: serialised.
            timeout: seconds.

        Raises:
            NotOffered: the server has no such stream, and did not look at the item.
            StreamEnded, TimeoutError: nobody knows what became of it.
        """
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        asked = self.put(key, item, timeout, partial(_settle, future))
        try:
            return await future
        finally:
            asked.cancel()

    def put(self, key: K, item: bytes, timeout: float, answered: Callable[[A | Exception], object]) -> Asked[K, A]:
        """As `ask`, without waiting: no future, no timer and no turn of the loop an item.

        Args:
            answered: hears the answer, or what `ask` would raise; once, never from within this call, and not at all
                after `cancel` of what this gives back.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        asked: Asked[K, A] = Asked(key, item, end, answered)
        if self._closed:
            loop.call_soon(asked.answer, StreamEnded(grpc.StatusCode.CANCELLED, "the stream was closed"))
            return asked
        if end < self._looks_at:
            self._look_at(end)
        self._waiting.append(asked)
        if self._sender is None:
            self._sender = loop.create_task(self._run(), name="list-stream")
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        return asked

    # One timer for all: most answers come long before their time is over, and then nothing was spent on it.

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = when
        self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        """Tells those whose time is over, and looks again when the next one's is, but not all the time."""
        self._timer, self._looks_at = None, _NEVER
        now = asyncio.get_running_loop().time() + _EARLY
        self._waiting = deque(asked for asked in self._waiting if asked.answered is not None)
        over, after = [], _NEVER
        for asked in chain(self._asked.values(), self._waiting):
            if asked.end <= now:
                over.append(asked)
            elif asked.end < after:
                after = asked.end
        if after < _NEVER:
            self._look_at(max(after, now + _LOOK_EVERY))
        for asked in over:
            if self._asked.get(asked.key) is asked:
                del self._asked[asked.key]
            asked.answer(TimeoutError())

    async def close(self) -> None:
        """Ends the stream; what is unanswered is unknown. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait({self._sender})

    async def _run(self) -> None:
        ended = StreamEnded(grpc.StatusCode.CANCELLED, "the stream was closed")
        try:
            ended = await self._one_stream()
        finally:
            self._sender = None
            left = list(self._asked.values())
            self._asked.clear()
            if self._closed:
                left += self._waiting
                self._waiting.clear()
            why: Exception = ended
            if ended.code is grpc.StatusCode.UNIMPLEMENTED:
                self._missing_until = asyncio.get_running_loop().time() + _ASK_AGAIN
                self.works = False
                why = NotOffered()
            for asked in left:
                asked.answer(why)
        if self._waiting and self._sender is None:  # never sent: they go out on a stream of their own
            self._sender = asyncio.get_running_loop().create_task(self._run(), name="list-stream")

    async def _one_stream(self) -> StreamEnded:
        """From the first item to the end, and why it ended."""
        loop = asyncio.get_running_loop()
        try:
            call = self._begin()
        except grpc.aio.UsageError as error:
            self._take()  # these count as asked, or a channel that is closed would be asked for ever
            return StreamEnded(grpc.StatusCode.CANCELLED, str(error))
        # The writer first: an item counts as asked before the reader can hear that the stream is over.
        writer = loop.create_task(self._write(call), name="list-stream-writer")
        reader = loop.create_task(self._read(call), name="list-stream-reader")
        try:
            return await reader
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            # Not the other way round: a write that meets the stream's end may never be over.
            for task in (reader, writer):
                task.cancel()
            await asyncio.wait({reader, writer})

    async def _write(self, call: grpc.aio.StreamStreamCall[bytes, Any]) -> None:
        """Sends lists until it is cancelled, or the stream is over, of which its reader knows why."""
        loop = asyncio.get_running_loop()
        accepted = False
        try:
            while True:
                batch = self._take()
                if batch:
                    if not accepted:
                        await _let_it_answer(call)
                        accepted = True
                    self.lists += 1
                    self.items += len(batch)
                    await call.write(listed(batch))
                else:
                    self._idle = loop.create_future()
                    await self._idle
        except _DOWN:
            pass
        except Exception:
            call.cancel()  # a bug: nobody would write the rest
            raise

    def _take(self) -> list[bytes]:
        """The next list, in order of arrival; its items are asked from now on."""
        batch: list[bytes] = []
        size = 0
        waiting = self._waiting
        while waiting and len(batch) < self._max_items:
            asked = waiting[0]
            if asked.answered is not None:
                item = asked.item
                size += len(item)
                if batch and size > self._max_bytes:
                    break
                before = self._asked.setdefault(asked.key, asked)
                if before is not asked:
                    self._asked[asked.key] = asked
                    before.answer(StreamEnded(grpc.StatusCode.ABORTED, "it was asked again under the same key"))
                batch.append(item)
            waiting.popleft()
        return batch

    async def _read(self, call: grpc.aio.StreamStreamCall[bytes, Any]) -> StreamEnded:
        """Hands out answers until the stream ends; gives why it did."""
        under_way = self._asked
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                for key, answer in self._answers(message):
                    asked = under_way.pop(key, None)
                    if asked is not None:
                        asked.answer(answer)
                self.works = True
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
