"""`CallStream`: what comes in a list is answered as it would be by itself, and none of a list harms another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

import tcc
from services.accounts.v1 import accounts_pb2
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tcc import wire
from tcc.client._limits import MESSAGE_BYTES, check_size
from tcc.streams import varint
from tcc.tracing import TraceParent
from tcc.v1 import manager_pb2 as pb, manager_pb2_grpc, transaction_pb2
from tests.spine.bad_requests import branch
from tests.spine.installation import OPENING, Installation
from tests.spine.traffic import Serve, waits_for

MUCH = accounts_pb2.DebitRequest(account="ann", amount=OPENING * 2).SerializeToString()
Entry = tuple[str, str | bytes]


@dataclass(frozen=True)
class Answer:
    """What a caller is told, without ids and times."""

    code: grpc.StatusCode
    message: str
    trailers: frozenset[tuple[str, str]]
    response: str


Ask = Callable[[str, Any], Awaitable[Answer]]
"""Calls a method."""


@asynccontextmanager
async def by_itself(installation: Installation) -> AsyncIterator[Ask]:
    """Each call is a call."""
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)

        async def ask(method: str, request: Any) -> Answer:
            call = getattr(stub, method)(request, timeout=20)
            try:
                response = await call
            except grpc.aio.AioRpcError as error:
                trailers = tuple(error.trailing_metadata() or ())
                return _answer(request.gid, error.code(), error.details() or "", trailers, None)
            trailers = tuple(await call.trailing_metadata() or ())
            return _answer(request.gid, grpc.StatusCode.OK, "", trailers, response)

        yield ask


@asynccontextmanager
async def in_a_list(installation: Installation) -> AsyncIterator[Ask]:
    """Each call is an item of one stream."""
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)
        stream = stub.CallStream()
        numbers = iter(range(1, 1000))

        async def ask(method: str, request: Any) -> Answer:
            number = next(numbers)
            field = method.lower()
            item = pb.CallStreamRequest.Item(id=number, timeout=Duration(seconds=20), **{f"{field}_request": request})
            await stream.write(pb.CallStreamRequest(items=[item]))
            (answer,) = (await stream.read()).items
            assert answer.id == number
            trailers = _trailers(answer)
            if answer.HasField("error"):
                said = answer.error
                if said.details:
                    trailers = (*trailers, (wire.STATUS_DETAILS, said.details))
                return _answer(request.gid, wire.STATUS_BY_NUMBER[said.code], said.message, trailers, None)
            response = getattr(answer, f"{field}_response")
            return _answer(request.gid, grpc.StatusCode.OK, "", trailers, response)

        yield ask
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK


def _trailers(answer: Any) -> tuple[Entry, ...]:
    return tuple(
        (entry.key, entry.value if entry.key.endswith("-bin") else entry.value.decode()) for entry in answer.trailers
    )


def _answer(gid: str, code: grpc.StatusCode, message: str, trailers: tuple[Entry, ...], response: Any) -> Answer:
    if isinstance(response, pb.TryResponse):
        response = accounts_pb2.DebitReply.FromString(response.reply)
        response.ClearField("available")  # the other story was here before
    elif response is not None:
        _forget_times(response)
    kept = frozenset((key, repr(value).replace(gid, "G")) for key, value in trailers)
    return Answer(code, message.replace(gid, "G"), kept, str(response).replace(gid, "G"))


def _forget_times(message: Message) -> None:
    for field, value in message.ListFields():
        if isinstance(value, Timestamp) or field.name == "try_reply":
            message.ClearField(field.name)
        elif isinstance(value, Message):
            _forget_times(value)
        elif field.message_type is not None:
            for each in value:
                _forget_times(each)


async def a_transfer(ask: Ask, gid: str) -> list[Answer]:
    return [
        await ask("Begin", pb.BeginRequest(gid=gid, name="transfer")),
        await ask("Try", pb.TryRequest(gid=gid, branch=branch("out"))),
        await ask("Try", pb.TryRequest(gid=gid, branch=branch("out"))),
        await ask("Try", pb.TryRequest(gid=gid, branch=branch("out", request=MUCH))),
        await ask("Confirm", pb.ConfirmRequest(gid=gid, wait=pb.WAIT_COMPLETED)),
        await ask("Try", pb.TryRequest(gid=gid, branch=branch("late"))),
        await ask("Cancel", pb.CancelRequest(gid=gid)),
    ]


async def a_refusal(ask: Ask, gid: str) -> list[Answer]:
    return [
        await ask("Begin", pb.BeginRequest(gid=gid)),
        await ask("Try", pb.TryRequest(gid=gid, branch=branch("out", request=MUCH))),
        await ask("Cancel", pb.CancelRequest(gid=gid, wait=pb.WAIT_COMPLETED, reason="as asked")),
        await ask("Confirm", pb.ConfirmRequest(gid=gid)),
    ]


async def what_cannot_be(ask: Ask, gid: str) -> list[Answer]:
    return [
        await ask("Try", pb.TryRequest(gid=gid, branch=branch("out"))),
        await ask("Confirm", pb.ConfirmRequest(gid=gid)),
        await ask("Cancel", pb.CancelRequest(gid=gid)),
        await ask("Begin", pb.BeginRequest(gid=gid + " ")),
        await ask("Begin", pb.BeginRequest(gid=gid, timeout=Duration(seconds=-1))),
        await ask("Begin", pb.BeginRequest(gid=gid)),
        await ask("Begin", pb.BeginRequest(gid=gid, name="other")),
        await ask("Try", pb.TryRequest(gid=gid, branch=branch(""))),
        await ask("Try", pb.TryRequest(gid=gid, branch=branch("out", participant="nobody"))),
        await ask("Cancel", pb.CancelRequest(gid=gid)),
    ]


@pytest.mark.parametrize(("story", "spent"), [(a_transfer, 1), (a_refusal, 0), (what_cannot_be, 0)])
async def test_each_is_answered_as_it_would_be_by_itself(
    installation: Installation, story: Callable[[Ask, str], Awaitable[list[Answer]]], spent: int
) -> None:
    async with by_itself(installation) as ask:
        told = await story(ask, "g-1")
    async with in_a_list(installation) as ask:
        told_in_lists = await story(ask, "g-2")
    assert told_in_lists == told
    assert {answer.code for answer in told} > {grpc.StatusCode.OK}  # the story has both kinds of ends
    for gid in ("g-1", "g-2"):
        assert (await installation.ended(gid)).state is (tcc.State.CONFIRMED if spent else tcc.State.CANCELLED)
    assert installation.bank_a.ann == (OPENING - 2 * spent, 0)


async def test_one_that_waits_does_not_hold_up_the_others_of_its_list(installation: Installation) -> None:
    gate = asyncio.Event()
    installation.bank_a.traffic.next("TryDebit", waits_for(gate))
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)
        await stub.Begin(pb.BeginRequest(gid="slow"))
        stream = stub.CallStream()
        slow = pb.CallStreamRequest.Item(id=7, try_request=pb.TryRequest(gid="slow", branch=branch("out")))
        strange = pb.CallStreamRequest.Item(id=8)
        traced = pb.CallStreamRequest.Item(
            id=9,
            begin_request=pb.BeginRequest(gid="traced"),
            metadata=[transaction_pb2.Metadata(key="traceparent", value=b"\xff" * 55)],
        )
        await stream.write(pb.CallStreamRequest(items=[slow, strange, traced]))
        answers: dict[int, Any] = {}
        while len(answers) < 2:
            answers.update({answer.id: answer for answer in (await stream.read()).items})
        assert sorted(answers) == [8, 9]
        assert answers[8].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert answers[9].begin_response.transaction.state == transaction_pb2.STATE_TRYING
        gate.set()
        (late,) = (await stream.read()).items
        assert (late.id, late.WhichOneof("answer"), _trailers(late)) == (
            7,
            "try_response",
            (("tcc-try-result", "reserved"),),
        )
        stream.cancel()
    await installation.manager.cancel("slow")
    await installation.manager.cancel("traced")


@pytest.mark.parametrize("kind", ["plans", "calls"])
async def test_answers_that_are_large_together_are_answers_all_the_same(installation: Installation, kind: str) -> None:
    count, size = 40, 600 * 1024
    gate = asyncio.Event()

    async def answers_at_length(serve: Serve, context: Any) -> bytes:
        await gate.wait()
        return varint(100 << 3 | 2) + varint(size) + bytes(size) + await serve()

    traffic = installation.bank_a.traffic
    traffic.always("TryDebit", answers_at_length)
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)
        stream: Any
        if kind == "plans":
            stream = stub.ExecuteStream()
            plans = [pb.ExecuteRequest(gid=f"g-{number}", branches=[branch("out")]) for number in range(count)]
            await stream.write(
                pb.ExecuteStreamRequest(
                    items=[pb.ExecuteStreamRequest.Item(id=at, request=plan) for at, plan in enumerate(plans)]
                )
            )
        else:
            stream = stub.CallStream()
            tries = [pb.TryRequest(gid=f"g-{number}", branch=branch("out")) for number in range(count)]
            await asyncio.gather(*(stub.Begin(pb.BeginRequest(gid=each.gid)) for each in tries))
            await stream.write(
                pb.CallStreamRequest(
                    items=[pb.CallStreamRequest.Item(id=at, try_request=each) for at, each in enumerate(tries)]
                )
            )
        await traffic.until("TryDebit", count)
        gate.set()
        sizes: dict[int, int] = {}
        async with asyncio.timeout(30):
            while len(sizes) < count:
                sizes.update({answer.id: answer.ByteSize() for answer in (await stream.read()).items})
        stream.cancel()
        assert min(sizes.values()) > size
        if kind == "calls":
            await asyncio.gather(*(stub.Cancel(pb.CancelRequest(gid=each.gid)) for each in tries))


async def test_the_largest_request_that_a_client_sends_is_answered_by_the_manager(installation: Installation) -> None:
    request = pb.TryRequest(gid="g-1", branch=branch("out", request=bytes(MESSAGE_BYTES)))
    request.branch.request = bytes(2 * MESSAGE_BYTES - request.ByteSize())
    check_size(request.ByteSize(), "g-1")
    transport = installation.manager._open_line().transport
    assert await transport.ready(5)
    trace = TraceParent("00-" + "1" * 32 + "-" + "2" * 16 + "-00", "vendor=" + "x" * 500)
    with pytest.raises(grpc.aio.AioRpcError, match="the limit is") as refused:
        await transport.attempt_try(request, 20, parent=trace)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("in_lists", [False, True])
async def test_what_passes_before_the_decision_is_not_there_for_what_comes_after_it(
    installation: Installation, in_lists: bool
) -> None:
    gate = asyncio.Event()
    traffic = installation.bank_a.traffic
    traffic.next("TryDebit", waits_for(gate))
    settle = asyncio.Event()
    traffic.always("ConfirmDebit", waits_for(settle))
    confirm = pb.ConfirmRequest(gid="g-1", wait=pb.WAIT_COMPLETED)
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)
        await stub.Begin(pb.BeginRequest(gid="g-1"))
        held = asyncio.ensure_future(stub.Try(pb.TryRequest(gid="g-1", branch=branch("out"))))
        await traffic.until("TryDebit")
        asyncio.get_running_loop().call_later(1.0, gate.set)  # half of the time that the Confirm is waited for
        if in_lists:
            stream = stub.CallStream()
            item = pb.CallStreamRequest.Item(id=1, timeout=Duration(seconds=2), confirm_request=confirm)
            await stream.write(pb.CallStreamRequest(items=[item]))
            async with asyncio.timeout(2):
                response = (await stream.read()).items[0].confirm_response
            stream.cancel()
        else:
            response = await stub.Confirm(confirm, timeout=2)
        await held
    assert response.transaction.state == transaction_pb2.STATE_CONFIRMING
    settle.set()
    assert (await installation.ended("g-1")).state is tcc.State.CONFIRMED


async def test_a_call_whose_time_is_over_is_not_worked_on_any_more(installation: Installation) -> None:
    gate = asyncio.Event()
    installation.bank_a.traffic.next("TryDebit", waits_for(gate))
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)
        await stub.Begin(pb.BeginRequest(gid="slow"))
        stream = stub.CallStream()
        slow = pb.TryRequest(gid="slow", branch=branch("out"))
        item = pb.CallStreamRequest.Item(id=1, try_request=slow, timeout=Duration(nanos=50_000_000))
        await stream.write(pb.CallStreamRequest(items=[item]))
        (answer,) = (await stream.read()).items
        assert answer.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        gate.set()
        again = await stub.Try(slow, timeout=20)  # the branch was enlisted, and its Try went on
        assert accounts_pb2.DebitReply.FromString(again.reply).reservation_id == "slow/out"
        stream.cancel()
    await installation.manager.cancel("slow")


async def test_the_sdk_s_interactive_calls_leave_in_lists(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_itself(*_: object, **__: object) -> None:
        raise AssertionError("a call by itself")

    line = installation.manager._open_line()
    monkeypatch.setattr(line.transport, "_attempt", by_itself)
    async with installation.manager.transaction() as tx:
        await AccountsStub(tx.channel.participant("bank-a")).TryDebit(
            accounts_pb2.DebitRequest(account="ann", amount=1)
        )
    async with installation.manager.transaction() as given_up:
        await given_up.cancel("as the test says")
