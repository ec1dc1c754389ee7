"""Plans that come in one list: each gets its own answer, whatever becomes of the others, the client or the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from unittest.mock import patch

import grpc

from tcc.v1 import manager_pb2 as pb, transaction_pb2
from tcc_server.api.requests import Limits, Requests
from tcc_server.api.service import ManagerService, _answer_to_plan
from tcc_server.core.model import Key, State
from tests.engine.shell import REFUSED, RESERVED, Shell, scenario
from tests.faults import Fault

METHODS = transaction_pb2.Methods(try_method="/p.S/Try", confirm_method="/p.S/Confirm", cancel_method="/p.S/Cancel")
CONFIRMING = transaction_pb2.STATE_CONFIRMING


def plan(gid: str, *steps: str, wait: pb.Wait.ValueType = pb.WAIT_DECIDED) -> pb.ExecuteRequest:
    branches = [pb.PlannedBranch(step=step, participant="bank", methods=METHODS, request=b"r") for step in steps]
    return pb.ExecuteRequest(gid=gid, branches=branches, wait=wait)


class Client:
    """One stream to the service, without a network; stands in for gRPC's context too."""

    def __init__(self, service: ManagerService) -> None:
        self._lists: asyncio.Queue[pb.ExecuteStreamRequest] = asyncio.Queue()
        self.answers: dict[int, pb.ExecuteStreamResponse.Item] = {}
        self.writes: list[int] = []
        self.serving = asyncio.create_task(service.ExecuteStream(self._messages(), self))  # type: ignore[arg-type]  # as much of a context as is asked

    async def _messages(self) -> AsyncIterator[pb.ExecuteStreamRequest]:
        while True:
            yield await self._lists.get()

    def send(self, *plans: pb.ExecuteRequest) -> None:
        items = [pb.ExecuteStreamRequest.Item(id=number, request=each) for number, each in enumerate(plans, 1)]
        self._lists.put_nowait(pb.ExecuteStreamRequest(items=items))

    async def send_initial_metadata(self, metadata: Sequence[Any]) -> None:
        pass

    async def write(self, message: bytes) -> None:
        await asyncio.sleep(0)
        items = pb.ExecuteStreamResponse.FromString(message).items
        assert not {item.id for item in items} & self.answers.keys()
        self.answers.update({item.id: item for item in items})
        self.writes.append(len(items))

    def codes(self) -> dict[int, str]:
        return {
            number: next(code.name for code in grpc.StatusCode if code.value[0] == item.error.code)
            for number, item in sorted(self.answers.items())
        }

    async def leave(self) -> None:
        self.serving.cancel()
        await asyncio.wait({self.serving})


async def opened() -> tuple[Shell, ManagerService, Client]:
    shell = await Shell().start()
    service = ManagerService(shell.engine, Requests({"bank"}, Limits()))
    return shell, service, Client(service)


def states(shell: Shell) -> dict[str, State]:
    return {key.gid: row.state for key, row in sorted(shell.store.rows.items())}


@scenario
async def test_each_plan_of_a_list_gets_its_own_answer() -> None:
    shell, _, client = await opened()
    shell.courier.answers = True
    client.send(
        plan("good", "a", "b"),
        plan("refused", "c"),
        plan("", "a"),
        plan("empty"),
        plan("done", "d", wait=pb.WAIT_COMPLETED),
        plan("good", "other"),
        plan("good", "a", "b"),
    )
    await shell.until(lambda: len(shell.participants.calls) == 4)
    shell.participants.answer("c", REFUSED)
    shell.participants.answer_all()
    await shell.until(lambda: len(client.answers) == 7)
    assert list(client.codes().values()) == [
        "OK",
        "ABORTED",
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "OK",
        "ALREADY_EXISTS",
        "OK",
    ]
    told = {number: item.response.transaction for number, item in client.answers.items()}
    assert [told[1].gid, told[5].gid, told[7].gid] == ["good", "done", "good"]
    assert [branch.step for branch in told[1].branches] == ["a", "b"]
    assert [branch.try_reply for branch in told[1].branches] == [b"reply", b"reply"]
    assert told[5].state == transaction_pb2.STATE_CONFIRMED
    await client.leave()
    await shell.quiet()
    assert states(shell) == {"done": State.CONFIRMED, "good": State.CONFIRMED, "refused": State.CANCELLED}
    await shell.engine.close()


@scenario
async def test_a_plan_that_takes_long_holds_up_no_answer_of_its_list() -> None:
    shell, _, client = await opened()
    client.send(plan("slow", "slow"), plan("quick", "quick"))
    await shell.until(lambda: len(shell.participants.calls) == 2)
    shell.participants.answer("quick")
    await shell.until(lambda: 2 in client.answers)
    assert 1 not in client.answers
    shell.participants.answer("slow")
    await shell.until(lambda: 1 in client.answers)
    await client.leave()
    await shell.engine.close()


@scenario
async def test_what_a_client_asked_for_before_it_went_away_is_done_all_the_same() -> None:
    shell, service, client = await opened()
    shell.courier.answers = True
    client.send(plan("left", "a"))
    await shell.until(lambda: len(shell.participants.calls) == 1)
    await client.leave()
    await asyncio.wait_for(service.drained(), 1)
    shell.participants.answer_all()
    await shell.quiet()
    assert states(shell) == {"left": State.CONFIRMED}
    assert client.answers == {}
    await shell.engine.close()


@scenario
async def test_the_service_is_drained_once_the_last_plan_of_a_list_is_answered() -> None:
    shell, service, client = await opened()
    client.send(plan("one", "a"), plan("two", "b"), plan("three", "c"))
    await shell.until(lambda: len(shell.participants.calls) == 3)
    drained = asyncio.create_task(service.drained())
    shell.participants.answer("a")
    await shell.until(lambda: 1 in client.answers)
    assert not drained.done()
    shell.participants.answer_all()
    await asyncio.wait_for(drained, 1)
    await shell.until(lambda: len(client.answers) == 3)
    await client.leave()
    await shell.engine.close()


@scenario
async def test_a_begin_that_the_log_refuses_fails_its_plan_alone() -> None:
    shell, _, client = await opened()
    shell.log.plan(Fault.REJECTED)
    client.send(plan("bad", "a"), plan("good", "b"))
    await shell.until(lambda: len(shell.participants.calls) == 1)
    shell.participants.answer_all()
    await shell.until(lambda: len(client.answers) == 2)
    assert sorted(client.codes().values()) == ["INVALID_ARGUMENT", "OK"]
    await client.leave()
    await shell.engine.close()


@scenario
async def test_a_plan_that_another_manager_has_begun_is_answered_from_there() -> None:
    shell, _, client = await opened()
    other = await Shell(shell.store, "r2").start()
    other.participants.always = RESERVED
    shell.log.plan(Fault.HELD)
    client.send(plan("shared", "a"))
    await shell.log.until_held()
    asks = Requests({"bank"}, Limits()).plan(plan("shared", "a").branches)
    await other.engine.execute(Key("default", "shared"), "", asks, 30.0, ("", ""))
    shell.log.release()
    await asyncio.wait_for(shell.until(lambda: 1 in client.answers), 5)
    assert client.codes() == {1: "OK"}
    assert client.answers[1].response.transaction.state == CONFIRMING
    assert shell.participants.calls == []
    await client.leave()
    await shell.engine.close()
    await other.engine.close()


@scenario
async def test_a_plan_of_a_list_that_another_manager_has_begun_is_answered_from_there() -> None:
    shell, service, client = await opened()
    other = await Shell(shell.store, "r2").start()
    other.participants.always = RESERVED
    shell.participants.always = RESERVED
    shell.log.plan(Fault.HELD, Fault.HELD)
    client.send(plan("shared", "a"), plan("own", "a"))
    await shell.log.until_held(2)
    asks = Requests({"bank"}, Limits()).plan(plan("shared", "a").branches)
    await other.engine.execute(Key("default", "shared"), "", asks, 30.0, ("", ""))
    shell.log.release()
    await asyncio.wait_for(shell.until(lambda: len(client.answers) == 2), 5)
    assert client.codes() == {1: "OK", 2: "OK"}
    assert [call.key.gid for call in shell.participants.calls] == ["own"]
    await asyncio.wait_for(service.drained(), 1)
    await client.leave()
    await shell.engine.close()
    await other.engine.close()


@scenario
async def test_plans_of_a_list_that_cannot_be_begun_together_are_answered_once() -> None:
    shell, _, client = await opened()
    put = shell.engine.put

    def fails_at_the_second(key: Key, *more: Any) -> bool:
        if key.gid == "second":
            raise ValueError("a bug")
        return put(key, *more)

    with patch.object(shell.engine, "put", fails_at_the_second):
        client.send(plan("first", "a"), plan("second", "b"))
        await shell.until(lambda: len(shell.participants.calls) == 2)
    shell.participants.answer_all()
    await shell.until(lambda: len(client.answers) == 2)
    await shell.quiet()
    assert client.codes() == {1: "OK", 2: "OK"}
    assert client.writes in ([1, 1], [2])
    assert not client.serving.done()
    await client.leave()
    await shell.engine.close()


@scenario
async def test_a_plan_whose_answer_cannot_be_made_keeps_no_other_from_its_own() -> None:
    shell, service, client = await opened()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

    def fails_at_the_first(item: Any, end: Any) -> bytes:
        if item.request.gid == "first":
            raise ValueError("a bug")
        return _answer_to_plan(item, end)

    with patch("tcc_server.api.service._answer_to_plan", fails_at_the_first):
        client.send(plan("first", "a"), plan("second", "b"), plan("third", "c"))
        await shell.until(lambda: len(shell.participants.calls) == 3)
        shell.participants.answer_all()
        await shell.until(lambda: len(client.answers) == 3)
    assert client.codes() == {1: "INTERNAL", 2: "OK", 3: "OK"}
    await asyncio.wait_for(service.drained(), 1)
    await client.leave()
    await shell.engine.close()


@scenario
async def test_a_manager_that_stops_says_so_to_every_plan_that_waits() -> None:
    shell, _, client = await opened()
    client.send(plan("one", "a"), plan("other", "b"))
    await shell.until(lambda: len(shell.participants.calls) == 2)
    await shell.engine.close()
    await shell.until(lambda: len(client.answers) == 2)
    assert client.codes() == {1: "UNAVAILABLE", 2: "UNAVAILABLE"}
    client.send(plan("late", "a"))
    await shell.quiet()
    await client.leave()
