"""The batcher: what leaves together, in which order, and who hears of an error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tcc.batching import Batcher, BatcherClosed


class Wire:
    """Records the lists that were sent, and holds each until it is let go. Answers an item with its capitals."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.started = asyncio.Semaphore(0)
        self._go = asyncio.Semaphore(0)

    async def send(self, items: Sequence[str]) -> Sequence[str | Exception]:
        self.sent.append(list(items))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.started.release()
        try:
            await self._go.acquire()
        finally:
            self.under_way -= 1
        return [ValueError(item) if item.startswith("bad") else item.upper() for item in items]

    def let_go(self, lists: int = 1000) -> None:
        for _ in range(lists):
            self._go.release()


def batcher_of(wire: Wire, max_items: int = 100, max_bytes: int = 1000, *, keyed: bool = False) -> Batcher[str, str]:
    return Batcher(
        wire.send,
        max_items=max_items,
        max_bytes=max_bytes,
        size_of=len,
        key_of=(lambda item: item[0]) if keyed else None,
    )


async def begin(batcher: Batcher[str, str], *items: str) -> list[asyncio.Task[str]]:
    """Submit the items in this order, and return once all of them wait."""
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_an_item_leaves_alone_when_nothing_is_under_way() -> None:
    wire = Wire()
    wire.let_go()
    batcher = batcher_of(wire)
    assert [await batcher.submit("a"), await batcher.submit("b")] == ["A", "B"]
    assert wire.sent == [["a"], ["b"]]


async def test_what_arrives_during_a_send_leaves_with_the_next_in_order_of_arrival() -> None:
    wire = Wire()
    batcher = batcher_of(wire)
    first = await begin(batcher, "a")
    await wire.started.acquire()
    later = await begin(batcher, "b", "c")
    later += await begin(batcher, "d")
    wire.let_go()
    assert await asyncio.gather(*first, *later) == ["A", "B", "C", "D"]
    assert wire.sent == [["a"], ["b", "c", "d"]]


async def test_one_list_at_a_time_is_under_way_however_many_wait() -> None:
    wire = Wire()
    batcher = batcher_of(wire, max_items=2)
    tasks = await begin(batcher, *"abcdef")
    await wire.started.acquire()
    assert wire.sent == [["a", "b"]]
    wire.let_go()
    await asyncio.gather(*tasks)
    assert wire.sent == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert wire.most_under_way == 1


async def test_a_list_is_bounded_in_bytes_and_an_oversize_item_goes_alone() -> None:
    wire = Wire()
    wire.let_go()
    batcher = batcher_of(wire, max_bytes=4)
    await asyncio.gather(*await begin(batcher, "aa", "bb", "c", "dddddddd", "e"))
    assert wire.sent == [["aa", "bb"], ["c"], ["dddddddd"], ["e"]]


async def test_items_of_one_key_never_share_a_list_and_keep_their_order() -> None:
    wire = Wire()
    wire.let_go()
    batcher = batcher_of(wire, keyed=True)
    await asyncio.gather(*await begin(batcher, "a1", "a2", "b1", "a3", "b2", "c1"))
    assert wire.sent == [["a1", "b1", "c1"], ["a2", "b2"], ["a3"]]


async def test_items_of_one_key_keep_their_order_past_the_bounds() -> None:
    wire = Wire()
    wire.let_go()
    batcher = batcher_of(wire, max_items=2, keyed=True)
    items = [f"{'ab'[number % 3 == 0]}{number}" for number in range(40)]
    await asyncio.gather(*await begin(batcher, *items))
    sent = [item for batch in wire.sent for item in batch]
    assert [item for item in sent if item[0] == "a"] == [item for item in items if item[0] == "a"]
    assert [item for item in sent if item[0] == "b"] == [item for item in items if item[0] == "b"]
    assert all(len({item[0] for item in batch}) == len(batch) for batch in wire.sent)


async def test_an_item_s_error_is_its_own() -> None:
    wire = Wire()
    wire.let_go()
    batcher = batcher_of(wire)
    answers = await asyncio.gather(*await begin(batcher, "a", "bad", "c"), return_exceptions=True)
    assert [answers[0], type(answers[1]), answers[2]] == ["A", ValueError, "C"]


async def test_a_send_that_raises_fails_its_list_and_the_next_goes_on() -> None:
    calls: list[list[str]] = []

    async def send(items: Sequence[str]) -> Sequence[str]:
        calls.append(list(items))
        if len(calls) == 1:
            raise OSError("cut")
        return items

    batcher = Batcher[str, str](send, max_items=2, max_bytes=100, size_of=len)
    answers = await asyncio.gather(*await begin(batcher, "a", "b", "c"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OSError, OSError, str]


async def test_a_send_that_answers_too_few_items_is_an_error_for_all_of_them() -> None:
    async def send(items: Sequence[str]) -> Sequence[str]:
        return items[1:]

    batcher = Batcher[str, str](send, max_items=9, max_bytes=100, size_of=len)
    answers = await asyncio.gather(*await begin(batcher, "a", "b"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError]


async def test_a_cancelled_caller_s_item_is_dropped_before_the_send_and_harms_no_other() -> None:
    wire = Wire()
    batcher = batcher_of(wire)
    first = await begin(batcher, "a", "b")
    await wire.started.acquire()
    later = await begin(batcher, "c", "d", "e")
    first[0].cancel()
    later[1].cancel()
    await asyncio.wait([first[0], later[1]])
    wire.let_go()
    assert [await first[1], await later[0], await later[2]] == ["B", "C", "E"]
    assert wire.sent == [["a", "b"], ["c", "e"]]


async def test_close_waits_for_all_that_was_submitted_and_takes_no_more() -> None:
    wire = Wire()
    batcher = batcher_of(wire, max_items=2)
    tasks = await begin(batcher, *"abcde")
    closing = asyncio.create_task(batcher.close())
    await wire.started.acquire()
    with pytest.raises(BatcherClosed):
        await batcher.submit("late")
    assert not closing.done()
    wire.let_go()
    await closing
    assert "".join(task.result() for task in tasks) == "ABCDE"
    await batcher.close()


async def test_a_sender_that_is_cancelled_leaves_nobody_waiting() -> None:
    wire = Wire()
    batcher = batcher_of(wire, max_items=1)
    tasks = await begin(batcher, "a", "b")
    await wire.started.acquire()
    (sender,) = (task for task in asyncio.all_tasks() if task.get_name() == "batcher")
    sender.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)


async def test_what_is_posted_leaves_in_order_with_what_is_awaited_and_its_errors_are_nobodys() -> None:
    wire = Wire()
    batcher = batcher_of(wire)
    first = await begin(batcher, "a")
    await wire.started.acquire()
    batcher.post("b")
    later = await begin(batcher, "c")
    batcher.post("bad")
    wire.let_go()
    assert await asyncio.gather(*first, *later) == ["A", "C"]
    batcher.post("d")
    await batcher.close()
    assert wire.sent == [["a"], ["b", "c", "bad"], ["d"]]
    with pytest.raises(BatcherClosed):
        batcher.post("e")


async def test_a_list_that_fails_fails_those_who_wait_also_beside_what_was_posted() -> None:
    async def send(items: Sequence[str]) -> Sequence[str | Exception]:
        raise OSError("down")

    batcher = Batcher[str, str](send, max_items=9, max_bytes=100, size_of=len)
    batcher.post("a")
    with pytest.raises(OSError, match="down"):
        await batcher.submit("b")
    batcher.post("c")
    await batcher.close()


class Noted:
    """Where an answer goes that no future waits for."""

    def __init__(self, *, dropped: bool = False) -> None:
        self.dropped = dropped
        self.ends: list[object] = []

    def done(self) -> bool:
        return self.dropped

    def set_result(self, result: object) -> None:
        self.ends.append(result)

    def set_exception(self, error: Exception) -> None:
        self.ends.append(error)

    def cancel(self) -> None:
        self.ends.append("cancelled")


async def test_items_put_together_are_answered_each_where_it_was_said() -> None:
    wire = Wire()
    batcher = batcher_of(wire, max_items=3)
    noted = [Noted() for _ in range(3)]
    dropped = Noted(dropped=True)
    batcher.put_all(zip(["a", "bad", "c", "d"], [*noted[:2], dropped, noted[2]], strict=True))
    wire.let_go()
    assert await batcher.submit("e") == "E"
    assert wire.sent == [["a", "bad", "d"], ["e"]]
    assert [repr(end) for each in noted for end in each.ends] == ["'A'", "ValueError('bad')", "'D'"]
    assert not dropped.ends


async def test_items_put_together_hear_of_the_end_of_the_event_loop_and_of_a_batcher_that_is_closed() -> None:
    wire = Wire()
    batcher = batcher_of(wire, max_items=1)
    sent, waiting = Noted(), Noted()
    batcher.put_all([("a", sent), ("b", waiting)])
    await wire.started.acquire()
    assert batcher._sender is not None
    batcher._sender.cancel()
    await asyncio.wait({batcher._sender})
    assert sent.ends == waiting.ends == ["cancelled"]
    batcher.put_all([])  # begins nothing
    await batcher.close()
    with pytest.raises(BatcherClosed):
        batcher.put_all([("c", Noted())])
