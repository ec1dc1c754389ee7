"""Lists on every hop: one small batcher that forms lists of whatever arrives while the send before is under way.

The law: an item leaves with the next send, at once when none is under way. So a list has one item when there is little
to do and hundreds under load; there is no timer, and nothing waits for company. At most one send is under way; lists
leave in the order in which their items came. Each item has its own answer, and no item's fate touches another's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar

T = TypeVar("T")
R = TypeVar("R")
AnswerT = TypeVar("AnswerT", contravariant=True)


class BatcherClosed(RuntimeError):
    """The item came after `close` and was not sent."""


class Answered(Protocol[AnswerT]):
    """Where an item's answer goes: a future, or what stands in for one at less than its price."""

    def done(self) -> bool:
        """Whether it is not waited for any more; what is not yet sent then needs not be."""

    def set_result(self, result: AnswerT, /) -> None:
        """The item's answer. Called while nothing is sent: whoever has much to do with it does that later."""

    def set_exception(self, error: Exception, /) -> None:
        """As `set_result`, where it is an error."""

    def cancel(self) -> object:
        """There will be no answer, since the event loop ends."""


_Waiting: TypeAlias = tuple[T, "Answered[R] | None"]
"""An item, and where its answer goes; None where nobody waits for one."""


class Batcher(Generic[T, R]):
    """Sends items in lists, one list at a time.

        async def send(rows: Sequence[Row]) -> Sequence[None | Exception]: ...

        batcher = Batcher(send, max_items=512, max_bytes=4 * 1024 * 1024, size_of=len)
        await batcher.submit(row)

    The items that wait are bounded by the callers that wait: a slow send slows all of them, which is the back-pressure.

    Args:
        send: given a list, returns one result an item in the same order; a result that is an Exception is raised from
            that item's `submit`. What `send` itself raises is raised from `submit` for every item of the list.
        max_items: of one list, at least 1.
        max_bytes: of one list, by `size_of`; an item larger than this goes alone.
        size_of: bytes of an item.
        key_of: items of the same key never share a list and leave in the order in which they came; None: all may share.
    """

    def __init__(
        self,
        send: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        max_items: int,
        max_bytes: int,
        size_of: Callable[[T], int],
        key_of: Callable[[T], Hashable] | None = None,
    ) -> None:
        if max_items < 1 or max_bytes < 1:
            raise ValueError("max_items and max_bytes must be at least 1")
        self._send = send
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._key_of = key_of
        self._waiting: deque[_Waiting[T, R]] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, item: T) -> R:
        """Send one item with the next list, and wait for its answer.

        A cancelled call stops waiting: an item not yet sent is dropped, one already sent is not called back.

        Raises:
            BatcherClosed: it came after `close`.
            Exception: the item's own result, or what `send` raised.
        """
        return await self.put(item)

    def put(self, item: T) -> asyncio.Future[R]:
        """As `submit`, without waiting: its answer comes in the future. Raises BatcherClosed."""
        if self._closed:
            raise BatcherClosed("closed: nothing more is sent")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, answer))
        if self._sender is None:
            self._sender = loop.create_task(self._send_all(), name="batcher")
        return answer

    def post(self, item: T) -> None:
        """As `put`, where nobody wants the answer: what went wrong is for `send` to note. Raises BatcherClosed."""
        if self._closed:
            raise BatcherClosed("closed: nothing more is sent")
        self._waiting.append((item, None))
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_all(), name="batcher")

    def put_all(self, items: Iterable[tuple[T, Answered[R]]]) -> None:
        """As `put` for each, where the caller says where its answer goes. Raises BatcherClosed."""
        if self._closed:
            raise BatcherClosed("closed: nothing more is sent")
        self._waiting.extend(items)
        if self._sender is None and self._waiting:
            self._sender = asyncio.get_running_loop().create_task(self._send_all(), name="batcher")

    async def close(self) -> None:
        """Take no more items, and return once everything that was submitted is answered. Idempotent."""
        self._closed = True
        if self._sender is not None:
            await asyncio.wait({self._sender})

    async def _send_all(self) -> None:
        try:
            while batch := self._take():
                await self._send_list(batch)
        finally:
            # Reached with something waiting only when the task itself is cancelled, as at the end of the event loop.
            _cancel(self._waiting)
            self._waiting.clear()
            self._sender = None

    def _take(self) -> list[_Waiting[T, R]]:
        """The next list, in order of arrival."""
        queue, size_of, key_of = self._waiting, self._size_of, self._key_of
        batch: list[_Waiting[T, R]] = []
        held_back: list[_Waiting[T, R]] = []
        keys: set[Hashable] = set()
        size = 0
        # Looking past items held back is bounded too, so that a thousand of one key do not cost a million steps.
        while queue and len(batch) < self._max_items and len(held_back) < self._max_items:
            waiting = queue.popleft()
            item, answer = waiting
            if answer is not None and answer.done():
                continue
            if key_of is not None:
                key = key_of(item)
                if key in keys:
                    held_back.append(waiting)
                    continue
            size += size_of(item)
            if batch and size > self._max_bytes:
                queue.appendleft(waiting)
                break
            batch.append(waiting)
            if key_of is not None:
                keys.add(key)
        queue.extendleft(reversed(held_back))
        return batch

    async def _send_list(self, batch: Sequence[_Waiting[T, R]]) -> None:
        results: Sequence[R | Exception]
        try:
            results = await self._send([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"send returned {len(results)} results for {len(batch)} items")
        except Exception as error:
            results = [error] * len(batch)
        except BaseException:
            _cancel(batch)
            raise
        for (_, answer), result in zip(batch, results, strict=True):
            if answer is None or answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)


def _cancel(waiting: Iterable[_Waiting[T, R]]) -> None:
    for _, answer in waiting:
        if answer is not None:
            answer.cancel()
