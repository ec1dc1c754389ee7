"""Handlers of a list run in turns that are tasks to asyncio: what is meant for one of them reaches no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

import pytest
from sqlalchemy import bindparam, select

from tcc.fence import Body, Record, Rule
from tests.fence.lists import ACCOUNTS, add, amounts, effect, effects, in_one_list, of, prepare, verdict
from tests.fence.sharing import SharingFence

R = TypeVar("R")


@pytest.fixture
async def fence(sqlite_url: str) -> AsyncIterator[SharingFence]:
    fence = await prepare(SharingFence(sqlite_url))
    yield fence
    await fence.close()


async def test_each_handler_is_a_task_of_its_own_to_asyncio(fence: SharingFence) -> None:
    tasks: list[object] = []

    async def body(_: Record | None) -> bytes:
        before = asyncio.current_task()
        await add(fence, "a", 1)
        await asyncio.sleep(0)
        assert asyncio.current_task() is before
        tasks.append(before)
        return b""

    await in_one_list(fence, [(of(f"g-{number}"), body) for number in range(3)])
    assert None not in tasks
    assert len(set(tasks)) == 3


@pytest.mark.parametrize("waits", [asyncio.Event().wait, lambda: asyncio.sleep(9)], ids=["future", "timer"])
async def test_a_timeout_of_a_handlers_own_ends_what_it_is_around_and_nothing_else(
    fence: SharingFence, waits: type[asyncio.Event]
) -> None:
    async def gives_up(_: Record | None) -> bytes:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await waits()  # type: ignore[misc]  # either is awaitable
        await add(fence, "a", 1)
        return b"gave up"

    ends = await in_one_list(
        fence, [(of("g-0"), effect(fence, "g-0")), (of("g-1"), gives_up), (of("g-2"), effect(fence, "g-2"))]
    )
    assert [verdict(end).rule for end in ends] == [Rule.RUN] * 3
    assert (fence.lists, fence.alone) == ([3], 0)
    assert await effects(fence) == ["g-0", "g-2"]
    assert await amounts(fence) == {"a": 101, "b": 100}


async def test_a_timeout_that_had_passed_before_the_first_wait_ends_that_wait(fence: SharingFence) -> None:
    async def gives_up(_: Record | None) -> bytes:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(-1):
                await asyncio.Event().wait()
        return b""

    (end,) = await in_one_list(fence, [(of("g-0"), gives_up)])
    assert verdict(end).rule is Rule.RUN


async def test_a_task_group_in_a_handler_stops_that_handler_when_a_part_fails(fence: SharingFence) -> None:
    stopped = asyncio.Event()

    async def fails() -> None:
        raise KeyError("part")

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise

    async def body(_: Record | None) -> bytes:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(fails())
            await asyncio.Event().wait()
        return b""

    ends = await in_one_list(fence, [(of("g-0"), body), (of("g-1"), effect(fence, "g-1"))])
    assert isinstance(ends[0], ExceptionGroup)
    assert stopped.is_set()
    assert verdict(ends[1]).rule is Rule.RUN
    assert (fence.lists, fence.alone) == ([2], 0)


@pytest.mark.parametrize("first", [True, False], ids=["before it waits", "after it waited"])
async def test_a_handler_that_cancels_itself_goes_on_alone(fence: SharingFence, first: bool) -> None:
    runs = 0

    async def body(_: Record | None) -> bytes:
        nonlocal runs
        runs += 1
        if runs == 1:
            if not first:
                await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.Event().wait()
        return b""

    ends = await in_one_list(fence, [(of("g-0"), body), (of("g-1"), effect(fence, "g-1"))])
    assert [verdict(end).rule for end in ends] == [Rule.RUN] * 2
    assert (fence.lists, fence.alone, runs) == ([2], 1, 2)


async def test_a_handler_that_raises_its_own_cancellation_goes_on_alone(fence: SharingFence) -> None:
    runs = 0

    async def body(_: Record | None) -> bytes:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise asyncio.CancelledError
        return b""

    ends = await in_one_list(fence, [(of("g-0"), body), (of("g-1"), effect(fence, "g-1"))])
    assert [verdict(end).rule for end in ends] == [Rule.RUN] * 2
    assert (fence.lists, fence.alone, runs) == ([2], 1, 2)


async def test_lists_that_are_stopped_stop_the_handler_that_runs(fence: SharingFence) -> None:
    entered = asyncio.Event()
    ended: list[BaseException] = []

    async def body(_: Record | None) -> bytes:
        entered.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(error)
            raise
        return b""

    visiting = asyncio.create_task(fence.visit(of("g-0"), body))
    await entered.wait()
    (lists,) = [task for task in asyncio.all_tasks() if task.get_name() == "batcher"]
    lists.cancel()  # as at the end of the event loop
    await asyncio.gather(visiting, return_exceptions=True)
    assert visiting.cancelled()
    assert [type(error) for error in ended] == [asyncio.CancelledError]
    assert (await fence.visit(of("g-0"), _says(b"again"))).rule is Rule.RUN


async def test_a_statement_that_a_task_of_the_handlers_began_at_once_waits_for_nobody(fence: SharingFence) -> None:
    async def body(_: Record | None) -> bytes:
        asking = fence.first(LOOK, account="a")  # which an eager task would begin before the handler waits
        waits_for = asking.send(None)
        row = await asyncio.create_task(_ends(asking, waits_for))
        return str(row and row[0]).encode()

    ends = await in_one_list(fence, [(of("g-0"), body), (of("g-1"), effect(fence, "x"))])
    records = [verdict(end).record for end in ends]
    assert [record and record.reply for record in records] == [b"a", b"x"]
    assert (fence.lists, fence.alone) == ([2], 0)


LOOK = select(ACCOUNTS.c.name).where(ACCOUNTS.c.name == bindparam("account"))


async def _ends(work: Coroutine[Any, Any, R], waits_for: Any) -> R:
    return await _rest(work, waits_for)


@coroutine
def _rest(work: Coroutine[Any, Any, R], waits_for: Any) -> Generator[Any, Any, R]:
    while True:
        answer = yield waits_for
        try:
            waits_for = work.send(answer)
        except StopIteration as ended:
            result: R = ended.value
            return result


def _says(reply: bytes) -> Body:
    async def body(_: Record | None) -> bytes:
        return reply

    return body
