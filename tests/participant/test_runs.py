"""What a handler's run leaves behind: nothing, in its task, in its context, and in the runtime."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from tcc.fence import MemoryFence, Phase
from tests.participant.scripted import REPLY, Branch, Direct, Scripted, make_server


async def at_once(request: Any, context: Any) -> pb.DebitReply:
    return REPLY


async def endless(request: Any, context: Any) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def way(scripted: Scripted, fence: MemoryFence) -> Direct:
    return Direct(make_server(scripted, fence))


async def test_a_handler_that_ran_out_of_time_leaves_its_task_uncancelled_and_without_a_branch(
    way: Direct, scripted: Scripted
) -> None:
    scripted.scripts[Phase.TRY] = endless
    answer = await way.attempt(Branch(), timeout=0.01)
    task = asyncio.current_task()
    assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert task is not None
    assert not task.cancelling()
    with pytest.raises(tcc.UsageError):
        tcc.branch()


async def test_a_handler_that_goes_on_after_its_time_is_stopped_once(way: Direct, scripted: Scripted) -> None:
    stops: list[str] = []
    ended = asyncio.Event()

    async def stubborn(request: Any, context: Any) -> object:
        gid = tcc.branch().gid
        while True:
            try:
                await ended.wait()
                return REPLY
            except asyncio.CancelledError:
                stops.append(gid)

    async def second(request: Any, context: Any) -> object:
        if tcc.branch().gid == "g-1":
            return await stubborn(request, context)
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        ended.set()
        return REPLY

    scripted.scripts[Phase.TRY] = second
    answers = await asyncio.gather(way.attempt(Branch("g-1"), timeout=0.01), way.attempt(Branch("g-2"), timeout=0.05))
    assert stops == ["g-1"]
    assert {answer.code for answer in answers} == {grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_who_is_cancelled_while_a_handler_runs_hears_that_and_nothing_is_recorded(
    way: Direct, scripted: Scripted, fence: MemoryFence
) -> None:
    begun = asyncio.Event()

    async def wait(request: Any, context: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    scripted.scripts[Phase.TRY] = wait
    attempt = asyncio.create_task(way.attempt(Branch()))
    await begun.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert fence.record("default", "g-1", "0") is None


async def test_the_last_run_of_a_runtime_that_takes_nothing_more_ends_the_wait(scripted: Scripted) -> None:
    runtime = (server := make_server(scripted)).runtime
    begun, leave = asyncio.Event(), asyncio.Event()

    async def wait(request: Any, context: Any) -> object:
        begun.set()
        await leave.wait()
        return REPLY

    scripted.scripts[Phase.TRY] = wait
    attempt = asyncio.create_task(Direct(server).attempt(Branch()))
    await begun.wait()
    runtime.stop_taking()
    idle = asyncio.create_task(runtime.idle())
    leave.set()
    assert (await attempt).code is grpc.StatusCode.OK
    async with asyncio.timeout(5):
        await idle


async def test_another_methods_reply_is_a_bug_also_after_right_ones(way: Direct, scripted: Scripted) -> None:
    scripted.scripts[Phase.TRY] = at_once
    assert (await way.attempt(Branch("g-1"))).code is grpc.StatusCode.OK

    async def wrong(request: Any, context: Any) -> object:
        return pb.CreditReply()

    scripted.scripts[Phase.TRY] = wrong
    answer = await way.attempt(Branch("g-2"))
    assert answer.code is grpc.StatusCode.INTERNAL
    assert "CreditReply" in answer.message


def test_a_server_serves_one_event_loop_after_another(scripted: Scripted) -> None:
    way = Direct(make_server(scripted))
    scripted.scripts[Phase.TRY] = endless
    for gid in ("g-1", "g-2"):
        answer = asyncio.run(way.attempt(Branch(gid), timeout=0.01))
        assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
