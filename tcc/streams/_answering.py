"""The answering end of a stream of lists."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import grpc

from tcc.streams._asking import ACCEPTED, LIST_BYTES

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")
JoinedT = TypeVar("JoinedT", covariant=True)

_log = logging.getLogger("tcc.streams")

_FAILED: Final = "the server failed at this item: its log says why"


class Joined(Protocol[JoinedT]):
    """Items that are answered together."""

    @property
    def untold(self) -> Sequence[JoinedT]:
        """Those that are not answered: at first all of them; after `run`, those at which it failed."""

    async def run(self) -> None:
        """Answers them, each as soon as it is ready."""


Tell: TypeAlias = Callable[[Sequence[AnswerT]], None]
Join: TypeAlias = Callable[[Iterable[ItemT], Any, Tell[AnswerT]], tuple[Joined[ItemT] | None, Iterable[ItemT]]]
"""Takes out of some items, given the stream's gRPC context and where answers go, those that are answered together.

Gives them, or None, and the others.
"""


def parts(answers: Sequence[AnswerT], size_of: Callable[[AnswerT], int]) -> Iterator[Sequence[AnswerT]]:
    """Answers that wait together, in messages that gRPC carries: one that is too large would end its stream.

    Args:
        answers: in their order, which they keep.
        size_of: bytes of one; one of more than `LIST_BYTES` goes alone.
    """
    begin = size = 0
    for end, answer in enumerate(answers):
        length = size_of(answer)
        if size and size + length > LIST_BYTES:
            yield answers[begin:end]
            begin, size = end, 0
        size += length
    yield answers[begin:]


class ListServer(Generic[ItemT, AnswerT]):
    """All streams of one method. Items are answered side by side, each when it is ready.

    Args:
        items: the items in a message that came.
        handle: answers one item, given the stream's gRPC context.
        fail: the answer to an item that could not be handled, by a status.
        pack: the messages with these answers; see `parts`.
        at_once: items of one stream that are worked on at a time; what comes over that is RESOURCE_EXHAUSTED.
        join: finds items that may be answered together; None: each goes by itself.
    """

    def __init__(
        self,
        items: Callable[[Any], Iterable[ItemT]],
        handle: Callable[[ItemT, Any], Awaitable[AnswerT]],
        fail: Callable[[ItemT, grpc.StatusCode, str], AnswerT],
        pack: Callable[[Sequence[AnswerT]], Iterable[Any]],
        *,
        at_once: int,
        join: Join[ItemT, AnswerT] | None = None,
    ) -> None:
        self.items = items
        self.handle = handle
        self.fail = fail
        self.pack = pack
        self.at_once = at_once
        self.join = join
        self._streams: set[_Stream[ItemT, AnswerT]] = set()
        self._ending = False

    def end(self) -> None:
        """From now on nothing more is taken; each stream ends once what it took is answered."""
        self._ending = True
        for stream in self._streams:
            stream.end()

    async def serve(self, messages: AsyncIterable[Any], context: Any) -> None:
        """One stream, from its begin to its end; a method's handler.

        Args:
            messages: what gRPC gives a streaming handler.
            context: gRPC's, to write to.
        """
        if self._ending:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this server is shutting down")
        await context.send_initial_metadata(((ACCEPTED, "1"),))
        stream = _Stream(self, context)
        self._streams.add(stream)
        try:
            await stream.run(messages)
        finally:
            self._streams.discard(stream)


class _Stream(Generic[ItemT, AnswerT]):
    """One stream: what is worked on, and the answers that wait for the write before them."""

    def __init__(self, server: ListServer[ItemT, AnswerT], context: Any) -> None:
        self._server = server
        self._context = context
        self._answers: list[AnswerT] = []
        self._running: dict[int, asyncio.Task[None]] = {}
        self._count = 0
        self._under_way = 0
        self._reader: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    def end(self) -> None:
        if self._reader is not None:
            self._reader.cancel()

    async def run(self, messages: AsyncIterable[Any]) -> None:
        loop = asyncio.get_running_loop()
        self._reader = reader = loop.create_task(self._take(messages), name="list-server-reader")
        reader.add_done_callback(self._wake)
        try:
            while self._answers or self._running or not reader.done():
                if self._answers:
                    answers, self._answers = self._answers, []
                    for message in self._server.pack(answers):
                        await self._context.write(message)
                    if self._room is not None and not self._room.done():
                        self._room.set_result(None)
                else:
                    self._idle = idle = loop.create_future()
                    await idle
            if not reader.cancelled():
                reader.result()
        finally:
            # Reached with something running where the other side is gone: what it asked for is not waited for.
            left = {reader, *self._running.values()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _take(self, messages: AsyncIterable[Any]) -> None:
        loop = asyncio.get_running_loop()
        server, running = self._server, self._running
        async for message in messages:
            items = server.items(message)
            if server.join is not None:
                items = self._join(server.join, items)
            for item in items:
                if self._under_way >= server.at_once:
                    text = f"{server.at_once} items of this stream are being worked on"
                    self._answer(server.fail(item, grpc.StatusCode.RESOURCE_EXHAUSTED, text))
                    continue
                self._under_way += 1
                self._count = number = self._count + 1
                running[number] = loop.create_task(self._handle(number, item))
            while len(self._answers) >= server.at_once:  # the other side asks and does not listen
                self._room = loop.create_future()
                await self._room

    async def _handle(self, number: int, item: ItemT) -> None:
        try:
            answer = await self._server.handle(item, self._context)
            self._answers.append(answer)  # to the list of now: the one of before the wait may have been written
        except Exception:
            _log.exception("an item of a stream could not be handled")
            self._answers.append(self._server.fail(item, grpc.StatusCode.INTERNAL, _FAILED))
        finally:
            # Here and not in a callback of the task, which would be one more for the event loop to run.
            del self._running[number]
            self._under_way -= 1
            self._wake()

    def _join(self, join: Join[ItemT, AnswerT], items: Iterable[ItemT]) -> Iterable[ItemT]:
        """Begins with those that are answered together, as far as there is room; gives the others."""
        items = list(items)
        if len(items) < 2:
            return items
        room = self._server.at_once - self._under_way
        try:
            joined, others = join(items[:room], self._context, self._told)
        except Exception:  # each by itself is told of its own error
            return items
        if joined is not None:
            self._under_way += len(joined.untold)
            self._count = number = self._count + 1
            self._running[number] = asyncio.get_running_loop().create_task(self._run_joined(number, joined))
        return [*others, *items[room:]] if len(items) > room else others

    async def _run_joined(self, number: int, joined: Joined[ItemT]) -> None:
        task = asyncio.current_task()
        try:
            await joined.run()
        except asyncio.CancelledError:
            if task is not None and task.cancelling():
                raise
            _log.exception("items of a stream were given up, though nobody cancelled them")
        except Exception:
            _log.exception("items of a stream could not be handled")
        finally:
            del self._running[number]
            self._wake()
        failed = joined.untold
        if failed:
            self._told([self._server.fail(item, grpc.StatusCode.INTERNAL, _FAILED) for item in failed])

    def _told(self, answers: Sequence[AnswerT]) -> None:
        self._answers.extend(answers)
        self._under_way -= len(answers)
        self._wake()

    def _answer(self, answer: AnswerT) -> None:
        self._answers.append(answer)
        self._wake()

    def _wake(self, _: object = None) -> None:
        idle = self._idle
        if idle is not None:
            self._idle = None
            if not idle.done():
                idle.set_result(None)
