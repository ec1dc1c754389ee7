"""What a handler sees of its call, and of its branch: the same by gRPC, as a command and within the process."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.empty_pb2 import Empty

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from tcc import wire
from tcc.fence import MemoryFence, Phase
from tests.participant.scripted import REPLY, Branch, Scripted, Told, Way, is_marked

EVERY = list(Phase)


async def deliver(way: Way, scripted: Scripted, phase: Phase, script: Any, **options: Any) -> Any:
    """Lets a handler of this phase run `script`, and gives the manager's answer."""
    if phase is not Phase.TRY:
        await way.attempt(Branch())
    scripted.scripts[phase] = script
    if phase is Phase.TRY:
        return await way.attempt(Branch(), **options)
    return await way.settle(Branch(), phase, **options)


@pytest.mark.parametrize("phase", EVERY)
async def test_the_branch_is_told(way: Way, scripted: Scripted, phase: Phase) -> None:
    seen: list[tcc.Branch] = []

    async def look(request: Any, context: Any) -> object:
        seen.append(tcc.branch())
        await asyncio.create_task(look_within(context))
        return REPLY

    async def look_within(context: Any) -> None:
        seen.append(tcc.branch())  # in a task of the handler too

    before = time.time()
    await deliver(way, scripted, phase, look, attempt=2)

    assert seen[0] is seen[1]
    branch = seen[0]
    assert (branch.namespace, branch.gid, branch.step) == ("default", "g-1", "0")
    assert (branch.phase, branch.attempt) == (phase.value, 2)
    if phase is Phase.TRY:
        assert branch.deadline == pytest.approx(before + 30, abs=5)
        with pytest.raises(tcc.UsageError, match="not answered yet"):
            branch.try_reply(pb.DebitReply)
    else:
        assert branch.deadline is None
        assert branch.try_reply(pb.DebitReply) == REPLY


def test_there_is_no_branch_outside_of_a_handler() -> None:
    with pytest.raises(tcc.UsageError, match="within a Try, Confirm or Cancel handler"):
        tcc.branch()


@pytest.mark.parametrize("phase", EVERY)
async def test_metadata_is_told(way: Way, scripted: Scripted, phase: Phase) -> None:
    seen: dict[str, str | bytes] = {}

    async def look(request: Any, context: Any) -> object:
        metadata = context.invocation_metadata()
        seen.update(metadata)
        seen.update((entry.key, entry.value) for entry in metadata)
        assert metadata.get(wire.GID) == "g-1"
        return REPLY

    await deliver(way, scripted, phase, look)

    assert {key: seen.get(key) for key in (wire.NAMESPACE, wire.GID, wire.BRANCH, wire.PHASE, wire.ATTEMPT)} == {
        wire.NAMESPACE: "default",
        wire.GID: "g-1",
        wire.BRANCH: "0",
        wire.PHASE: phase.value,
        wire.ATTEMPT: "1",
    }
    assert seen[wire.REQUEST_HASH] == "0a0b"


async def test_the_clients_own_metadata_comes_with_the_try(way: Way, scripted: Scripted) -> None:
    seen: list[Any] = []

    async def look(request: Any, context: Any) -> pb.DebitReply:
        seen.append(dict(context.invocation_metadata()))
        return REPLY

    scripted.scripts[Phase.TRY] = look
    await way.attempt(Branch(extra=(("tenant", "blue"), ("blob-bin", b"\x00\xff"))))
    assert seen[0]["tenant"] == "blue"
    assert seen[0]["blob-bin"] == b"\x00\xff"


@pytest.mark.parametrize("phase", EVERY)
async def test_time_remaining_counts_down_from_what_the_caller_waits(
    way: Way, scripted: Scripted, phase: Phase
) -> None:
    seen: list[float] = []

    async def look(request: Any, context: Any) -> object:
        seen.append(context.time_remaining())
        return REPLY

    await deliver(way, scripted, phase, look, timeout=7.0)
    assert 5.0 < seen[0] < 7.1  # gRPC rounds up


@pytest.mark.parametrize("phase", EVERY)
async def test_time_remaining_is_the_handlers_own_limit_where_the_caller_has_none(
    way: Way, scripted: Scripted, phase: Phase
) -> None:
    seen: list[float] = []

    async def look(request: Any, context: Any) -> object:
        seen.append(context.time_remaining())
        return REPLY

    await deliver(way, scripted, phase, look)
    limit = 10.0 if phase is Phase.TRY else 30.0
    assert limit - 2.0 < seen[0] <= limit


@pytest.mark.parametrize("phase", EVERY)
async def test_an_abort_that_the_handler_swallows_counts(way: Way, scripted: Scripted, phase: Phase) -> None:
    async def swallow(request: Any, context: Any) -> object:
        with suppress(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return REPLY

    answer = await deliver(way, scripted, phase, swallow)
    if phase is Phase.TRY:
        assert (answer.code, answer.message, is_marked(answer)) == (grpc.StatusCode.NOT_FOUND, "gone", True)
    else:
        assert answer == Told("RETRY", grpc.StatusCode.NOT_FOUND, "gone")


@pytest.mark.parametrize("phase", EVERY)
async def test_abort_with_status_is_abort(way: Way, scripted: Scripted, phase: Phase) -> None:
    class Status(grpc.Status):
        code = grpc.StatusCode.OUT_OF_RANGE
        details = "too much"
        trailing_metadata = ()

    async def abort(request: Any, context: Any) -> None:
        await context.abort_with_status(Status())

    answer = await deliver(way, scripted, phase, abort)
    assert answer.code is grpc.StatusCode.OUT_OF_RANGE
    assert (answer.message if phase is Phase.TRY else answer.text) == "too much"


@pytest.mark.parametrize("phase", EVERY)
async def test_an_exception_after_set_code_carries_that_code(way: Way, scripted: Scripted, phase: Phase) -> None:
    async def fail(request: Any, context: Any) -> None:
        context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
        raise ValueError("full")

    answer = await deliver(way, scripted, phase, fail)
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "full" in (answer.message if phase is Phase.TRY else answer.text)


async def test_aborting_with_ok_is_a_bug(way: Way, scripted: Scripted) -> None:
    async def abort(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.OK, "fine")

    answer = await deliver(way, scripted, Phase.TRY, abort)
    assert answer.code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("ending", ["reply", "refusal"])
async def test_trailing_metadata_comes_with_the_answer_but_cannot_forge_the_mark(
    way: Way, scripted: Scripted, ending: str
) -> None:
    async def trail(request: Any, context: Any) -> pb.DebitReply:
        context.set_trailing_metadata((("tcc-refused", "1"), ("shard", "7"), ("blob-bin", b"\x00")))
        if ending == "refusal":
            raise tcc.Refused("no")
        return REPLY

    answer = await deliver(way, scripted, Phase.TRY, trail)
    assert answer.trailers[:2] == (("shard", "7"), ("blob-bin", b"\x00"))
    assert answer.trailers[2:] == ((("tcc-refused", "1"),) if ending == "refusal" else ())


async def test_the_details_of_an_abort_are_kept_with_the_refusal(way: Way, scripted: Scripted) -> None:
    details = wire.error_details(grpc.StatusCode.NOT_FOUND, "gone", "OUR_REASON")

    async def abort(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone", ((wire.STATUS_DETAILS, details),))

    first = await deliver(way, scripted, Phase.TRY, abort)
    again = await way.attempt(Branch(), attempt=2)
    assert first.details == again.details == details


@pytest.mark.parametrize("phase", EVERY)
async def test_a_done_callback_is_called_after_the_fence_has_the_effect(
    way: Way, scripted: Scripted, fence: MemoryFence, phase: Phase
) -> None:
    seen: list[object] = []

    def done(context: Any) -> None:
        record = fence.record("default", "g-1", "0")
        seen.append((context.done(), record and record.state.value))

    async def ask(request: Any, context: Any) -> object:
        context.add_done_callback(done)
        assert not context.done()
        return REPLY if phase is Phase.TRY else Empty()

    await deliver(way, scripted, phase, ask)
    after = {Phase.TRY: "TRIED", Phase.CONFIRM: "CONFIRMED", Phase.CANCEL: "CANCELLED"}
    assert seen == [(True, after[phase])]


@pytest.mark.parametrize("phase", EVERY)
async def test_a_unary_handler_has_no_stream_to_read_or_write(way: Way, scripted: Scripted, phase: Phase) -> None:
    seen: list[bool] = []

    async def stream(request: Any, context: Any) -> object:
        for attempt in (context.read(), context.write(REPLY)):
            with pytest.raises(grpc.aio.UsageError):
                await attempt
        await context.send_initial_metadata((("a", "b"),))
        assert context.peer()
        assert context.auth_context() is not None
        seen.append(True)
        return REPLY

    await deliver(way, scripted, phase, stream)
    assert seen == [True]
