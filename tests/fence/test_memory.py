"""Turns at a branch of the fence in memory: one visit at a time, and no turn is lost to a visit that has left."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tcc.fence import FenceBusy, MemoryFence, Phase, Record, Verdict, Visit

VISIT = Visit("default", "g-1", "0", Phase.TRY, "/s/Try", b"\x01")


async def answered(_: Record | None) -> bytes:
    return b"reply"


async def test_visits_take_turns_in_the_order_in_which_they_came() -> None:
    fence, order = MemoryFence(), list[int]()

    async def visit(number: int) -> None:
        async def fail(_: Record | None) -> bytes:
            order.append(number)
            await asyncio.sleep(0)
            raise ValueError(number)

        with pytest.raises(ValueError, match=str(number)):
            await fence.visit(VISIT, fail)

    await asyncio.gather(*(visit(number) for number in range(6)))
    assert order == list(range(6))


async def test_a_turn_that_comes_to_a_visit_being_cancelled_goes_to_the_next() -> None:
    fence, leave = MemoryFence(), asyncio.Event()

    async def stay(_: Record | None) -> bytes:
        await leave.wait()
        raise ValueError("nothing is recorded")

    first = asyncio.create_task(fence.visit(VISIT, stay))
    await asyncio.sleep(0)
    second, third = (asyncio.create_task(fence.visit(VISIT, answered)) for _ in range(2))
    await asyncio.sleep(0)
    leave.set()
    asyncio.get_running_loop().call_soon(second.cancel)  # after the turn was given to it, before it can take it
    ends = await asyncio.gather(first, second, third, return_exceptions=True)
    assert isinstance(ends[1], asyncio.CancelledError)
    assert isinstance(ends[2], Verdict)


@pytest.mark.parametrize("seed", range(20))
async def test_visits_that_fail_leave_or_run_out_of_patience_never_meet_and_block_nobody(seed: int) -> None:
    fence, random = MemoryFence(row_wait=0.003), Random(seed)  # noqa: S311  to repeat it
    inside: list[int] = []

    async def work(number: int) -> None:
        async def body(_: Record | None) -> bytes:
            assert not inside
            inside.append(number)
            try:
                await asyncio.sleep(random.choice((0, 0, 0.001)))
                raise ValueError("again")
            finally:
                inside.clear()

        await asyncio.sleep(random.random() * 0.01)
        with pytest.raises((ValueError, FenceBusy)):
            await fence.visit(VISIT, body)

    works = [asyncio.create_task(work(number)) for number in range(20)]
    for leaving in random.sample(works, 6):
        asyncio.get_running_loop().call_later(random.random() * 0.02, leaving.cancel)
    ends = await asyncio.gather(*works, return_exceptions=True)
    assert {type(end) for end in ends} <= {type(None), asyncio.CancelledError}
    assert isinstance(await fence.visit(VISIT, answered), Verdict)
