"""Tries and commands that come in lists: each is answered as a call of its method would be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import tcc
from services.accounts.v1.accounts_pb2 import DebitReply
from tcc import wire
from tcc.fence import MemoryFence, Phase
from tcc.participant import ParticipantServer
from tcc.tracing import TraceParent
from tcc.v1 import participant_pb2, participant_pb2_grpc, transaction_pb2
from tests.participant.scripted import METHODS, REPLY, Branch, Scripted, make_server

Item = participant_pb2.TryStreamRequest.Item


@pytest.fixture
async def server(scripted: Scripted) -> AsyncIterator[ParticipantServer]:
    server = make_server(scripted, MemoryFence(), maximum_concurrent_rpcs=2)
    await server.start()
    yield server
    await server.stop(None)


@pytest.fixture
async def stub(server: ParticipantServer) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield participant_pb2_grpc.ParticipantStub(channel)


def item(number: int, branch: Branch) -> Item:
    metadata = [
        transaction_pb2.Metadata(key=key, value=value if isinstance(value, bytes) else value.encode())
        for key, value in branch.metadata(Phase.TRY, 1)
    ]
    made = Item(id=number, methods=METHODS, request=branch.request, metadata=metadata)
    made.timeout.seconds = 5
    return made


def command(branch: Branch, phase: transaction_pb2.Phase.ValueType = transaction_pb2.PHASE_CONFIRM) -> Any:
    return participant_pb2.Command(
        namespace="default",
        gid=branch.gid,
        branch=branch.step,
        phase=phase,
        methods=METHODS,
        request=branch.request,
        request_hash=branch.request_hash,
        attempt=1,
    )


async def tried(stub: Any, *items: Item) -> dict[int, Any]:
    """The answers, by id."""
    call = stub.TryStream()
    await call.write(participant_pb2.TryStreamRequest(items=items))
    answers: dict[int, Any] = {}
    while len(answers) < len(items):
        answers |= {answer.id: answer for answer in (await call.read()).items}
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    return answers


async def test_a_list_is_answered_item_by_item(stub: Any, scripted: Scripted) -> None:
    async def attempt(request: Any, context: Any) -> object:
        if tcc.branch().gid == "g-2":
            raise tcc.Refused("no money")
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    answers = await tried(stub, item(7, Branch("g-1")), item(8, Branch("g-2")))
    assert (answers[7].reply, answers[7].HasField("status")) == (REPLY.SerializeToString(), False)
    assert (answers[8].status.code, answers[8].status.message) == (
        grpc.StatusCode.FAILED_PRECONDITION.value[0],
        "no money",
    )
    assert [(entry.key, entry.value) for entry in answers[8].trailers] == [(wire.REFUSED, b"1")]


async def test_a_handler_sees_all_metadata_of_an_item_and_a_clients_own_cannot_stand_in_for_the_managers(
    stub: Any, scripted: Scripted
) -> None:
    seen: list[Any] = []

    async def attempt(request: Any, context: Any) -> object:
        seen.extend((tcc.branch().gid, list(context.invocation_metadata())))
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    own = ((wire.GID, "g-2"), ("tenant", "blue"), ("tenant", "green"), ("blob-bin", b"\x00\xff"))
    answers = await tried(stub, item(1, Branch("g-1", extra=own)))
    assert answers[1].reply == REPLY.SerializeToString()
    gid, metadata = seen
    assert gid == "g-1"
    assert [entry for entry in metadata if entry in own] == list(own)
    assert dict(metadata)[wire.CONFIRM_METHOD] == METHODS.confirm_method


async def test_an_item_without_a_timeout_has_the_handlers_own(stub: Any, scripted: Scripted) -> None:
    seen: list[float] = []

    async def attempt(request: Any, context: Any) -> object:
        seen.append(context.time_remaining())
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    patient, endless = item(1, Branch("g-1")), item(2, Branch("g-2"))
    endless.ClearField("timeout")
    await tried(stub, patient)
    await tried(stub, endless)
    assert 4.0 < seen[0] <= 5.0
    assert 8.0 < seen[1] <= 10.0


@pytest.mark.parametrize(
    ("parent", "goes_on"), [("00-" + "a1" * 16 + "-" + "b2" * 8 + "-00", True), ("no trace context", False)]
)
async def test_a_trace_that_is_not_recorded_goes_on_in_the_handler(
    stub: Any, scripted: Scripted, parent: str, goes_on: bool
) -> None:
    seen: list[TraceParent] = []

    async def attempt(request: Any, context: Any) -> object:
        seen.append(TraceParent.current())
        return REPLY

    scripted.scripts[Phase.TRY] = scripted.scripts[Phase.CONFIRM] = attempt
    await tried(stub, item(1, Branch("g-1", extra=((wire.TRACEPARENT, parent),))))
    call = stub.CommandStream()
    confirm = command(Branch("g-1"))
    confirm.traceparent = parent
    await call.write(participant_pb2.CommandList(commands=[confirm]))
    await call.read()
    call.cancel()
    assert seen == [TraceParent(parent if goes_on else "")] * 2


async def test_an_item_that_is_no_branch_is_told_why(stub: Any, scripted: Scripted) -> None:
    nameless, garbled = item(1, Branch("g-1")), item(2, Branch("g-2"))
    del nameless.metadata[1]
    garbled.metadata[1].value = b"\xff"
    answers = await tried(stub, nameless, garbled)
    for number in (1, 2):
        assert answers[number].status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert wire.GID in answers[number].status.message
    assert not scripted.runs[Phase.TRY]


async def test_commands_are_answered_by_outcomes(stub: Any, scripted: Scripted) -> None:
    await tried(stub, item(1, Branch("g-1")))
    call = stub.CommandStream()
    await call.write(participant_pb2.CommandList(commands=[command(Branch("g-1")), command(Branch("g-2"))]))
    outcomes: dict[str, Any] = {}
    while len(outcomes) < 2:
        outcomes |= {outcome.gid: outcome for outcome in (await call.read()).outcomes}
    call.cancel()
    assert outcomes["g-1"].kind == transaction_pb2.OUTCOME_KIND_DONE
    assert outcomes["g-2"].kind == transaction_pb2.OUTCOME_KIND_NO_TRY


async def test_what_there_is_no_room_for_comes_again_and_has_not_failed(stub: Any, scripted: Scripted) -> None:
    gate, running = asyncio.Event(), asyncio.Semaphore(0)

    async def attempt(request: Any, context: Any) -> object:
        running.release()
        await gate.wait()
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    call = stub.TryStream()
    await call.write(participant_pb2.TryStreamRequest(items=[item(n, Branch(f"g-{n}")) for n in (1, 2, 3)]))
    (turned_away,) = (await call.read()).items
    assert (turned_away.id, turned_away.status.code) == (3, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
    assert not turned_away.trailers  # not marked: the manager repeats it
    await running.acquire()
    await running.acquire()
    call.cancel()
    commands = stub.CommandStream()
    await commands.write(participant_pb2.CommandList(commands=[command(Branch(f"x-{n}")) for n in range(3)]))
    outcomes: list[Any] = []
    while len(outcomes) < 3:
        outcomes += (await commands.read()).outcomes
    commands.cancel()
    busy = [outcome for outcome in outcomes if outcome.kind == transaction_pb2.OUTCOME_KIND_BUSY]
    assert [outcome.retry_after.seconds for outcome in busy] == [1]


async def test_a_stream_that_is_cut_stops_the_handlers_of_its_tries(stub: Any, scripted: Scripted) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def attempt(request: Any, context: Any) -> object:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    call = stub.TryStream()
    await call.write(participant_pb2.TryStreamRequest(items=[item(1, Branch("g-1"))]))
    await begun.wait()
    call.cancel()
    async with asyncio.timeout(5):
        await stopped.wait()


async def test_a_server_that_stops_answers_what_it_took_by_streams(
    stub: Any, scripted: Scripted, server: ParticipantServer
) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def attempt(request: Any, context: Any) -> object:
        begun.set()
        await gate.wait()
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    call = stub.TryStream()
    await call.write(participant_pb2.TryStreamRequest(items=[item(1, Branch("g-1"))]))
    await begun.wait()
    stopping = asyncio.create_task(server.stop(5))
    await asyncio.sleep(0)
    gate.set()
    assert [answer.reply for answer in (await call.read()).items] == [REPLY.SerializeToString()]
    assert await call.read() is grpc.aio.EOF
    async with asyncio.timeout(4):  # an open stream does not hold it up for its grace
        await stopping


async def test_replies_that_are_large_together_are_answers_all_the_same(stub: Any, scripted: Scripted) -> None:
    count, gate = 2, asyncio.Event()
    running = 0

    async def at_length(request: Any, context: Any) -> object:
        nonlocal running
        running += 1
        if running == count:
            gate.set()
        await gate.wait()
        return DebitReply(reservation_id="r" * 2_500_000)  # together more than gRPC takes in one message

    scripted.scripts[Phase.TRY] = at_length
    answers = await tried(stub, *(item(number, Branch(f"g-{number}")) for number in range(1, count + 1)))
    assert {(answer.status.code, answer.status.message) for answer in answers.values()} == {(0, "")}
    assert min(len(answer.reply) for answer in answers.values()) > 2_500_000
