"""Time limits: each handler is stopped at its own time, by one timer for all."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from tcc.fence import MemoryFence, Phase
from tcc.participant._limits import TimeLimits
from tests.participant.scripted import REPLY, Branch, Direct, Scripted, make_server


class Counting:
    """Notes when it was expired."""

    def __init__(self, seconds: float) -> None:
        self.time_limit = time.monotonic() + seconds
        self.expired = asyncio.Event()
        self.early = False

    def expire(self) -> None:
        self.early |= time.monotonic() < self.time_limit - 0.002
        self.expired.set()


async def test_each_is_expired_at_its_own_time_and_those_that_were_removed_are_not() -> None:
    limits, loop = TimeLimits(), asyncio.get_running_loop()
    late, soon, removed, now = Counting(0.06), Counting(0.02), Counting(0.03), Counting(-1.0)
    for one in (late, soon, removed, now):
        limits.add(one, loop)
    limits.remove(removed)
    for one in (now, soon):
        await one.expired.wait()
        limits.remove(one)
    assert not late.expired.is_set()
    after = Counting(0.01)
    limits.add(after, loop)
    for one in (after, late):
        await one.expired.wait()
        limits.remove(one)
    assert not removed.expired.is_set()
    assert not any(one.early for one in (now, soon, after, late))


def test_limits_go_on_in_another_event_loop() -> None:
    limits = TimeLimits()

    async def one() -> None:
        running = Counting(0.01)
        limits.add(running, asyncio.get_running_loop())
        await running.expired.wait()
        limits.remove(running)

    left_behind = Counting(0.005)

    async def leave_behind() -> None:
        limits.add(left_behind, asyncio.get_running_loop())

    asyncio.run(leave_behind())
    asyncio.run(one())
    assert not left_behind.expired.is_set()


async def test_handlers_side_by_side_are_stopped_each_at_its_own_time(scripted: Scripted, fence: MemoryFence) -> None:
    async def endless(request: Any, context: Any) -> None:
        await asyncio.Event().wait()

    async def at_once(request: Any, context: Any) -> object:
        return REPLY

    way = Direct(make_server(scripted, fence))
    scripted.scripts[Phase.TRY] = endless
    ended: list[str] = []

    async def attempt(gid: str, timeout: float) -> None:
        answer = await way.attempt(Branch(gid), timeout=timeout)
        assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
        ended.append(gid)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for gid, timeout in (("late", 0.12), ("first", 0.02), ("second", 0.06)):
            tasks.create_task(attempt(gid, timeout))
    assert ended == ["first", "second", "late"]
    scripted.scripts[Phase.TRY] = at_once
    assert (await way.attempt(Branch("after"))).code is grpc.StatusCode.OK
