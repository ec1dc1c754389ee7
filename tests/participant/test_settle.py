"""Confirm and Cancel: the outcomes of CONTRACT.md, the same by gRPC and as commands."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as PbAny
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2, status_pb2

import tcc
from tcc import wire
from tcc.fence import MemoryFence, Phase, State
from tcc.v1 import participant_pb2, transaction_pb2
from tests.participant.scripted import METHODS, SERVICE, Branch, Direct, Scripted, Told, Way, make_server

SETTLING = [Phase.CONFIRM, Phase.CANCEL]


@pytest.mark.parametrize("phase", SETTLING)
async def test_the_effect_happens_once_and_every_delivery_is_done(way: Way, scripted: Scripted, phase: Phase) -> None:
    await way.attempt(Branch())
    told = [await way.settle(Branch(), phase, attempt=attempt) for attempt in (1, 2, 3)]

    assert told == [Told("DONE")] * 3
    assert scripted.runs[phase] == 1


async def test_a_cancel_without_a_try_is_done_without_business_code(way: Way, scripted: Scripted) -> None:
    assert await way.settle(Branch(), Phase.CANCEL) == Told("DONE")
    assert not scripted.runs[Phase.CANCEL]


async def test_a_confirm_without_a_try_says_so(way: Way, scripted: Scripted) -> None:
    told = await way.settle(Branch(), Phase.CONFIRM)
    assert (told.kind, told.state) == ("NO_TRY", "")
    assert not scripted.runs[Phase.CONFIRM]


async def test_a_confirm_of_a_refused_try_says_so(way: Way, scripted: Scripted) -> None:
    async def refuse(request: Any, context: Any) -> None:
        raise tcc.Refused("no")

    scripted.scripts[Phase.TRY] = refuse
    await way.attempt(Branch())
    told = await way.settle(Branch(), Phase.CONFIRM)
    assert (told.kind, told.state) == ("NO_TRY", "REFUSED")


@pytest.mark.parametrize(("first", "then", "state"), [(*SETTLING, "CONFIRMED"), (*reversed(SETTLING), "CANCELLED")])
async def test_the_opposite_of_what_was_done_is_contradicted(way: Way, first: Phase, then: Phase, state: str) -> None:
    await way.attempt(Branch())
    await way.settle(Branch(), first)
    told = await way.settle(Branch(), then)
    assert (told.kind, told.state) == ("CONTRADICTED", state)


async def test_a_contradicted_command_names_the_state_as_its_reason(scripted: Scripted, fence: MemoryFence) -> None:
    runtime = make_server(scripted, fence).runtime
    await runtime.command(Branch().command(Phase.CANCEL, 1))
    outcome = await runtime.command(Branch().command(Phase.CONFIRM, 4))

    assert outcome == participant_pb2.Outcome(
        namespace="default",
        gid="g-1",
        branch="0",
        phase=transaction_pb2.PHASE_CONFIRM,
        attempt=4,
        kind=transaction_pb2.OUTCOME_KIND_CONTRADICTED,
        code=grpc.StatusCode.FAILED_PRECONDITION.value[0],
        message=outcome.message,
        reason="CANCELLED",
        fence_state="CANCELLED",
    )


@pytest.mark.parametrize("phase", SETTLING)
@pytest.mark.parametrize("how", ["Refused", "abort", "set_code", "bug"])
async def test_a_handler_that_fails_is_rolled_back_and_tried_again(
    way: Way, scripted: Scripted, fence: MemoryFence, phase: Phase, how: str
) -> None:
    async def fail(request: Any, context: Any) -> Empty:
        match how:
            case "Refused":
                raise tcc.Refused("not now", grpc.StatusCode.NOT_FOUND)
            case "abort":
                await context.abort(grpc.StatusCode.NOT_FOUND, "not now")
            case "bug":
                raise ValueError("not now")
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("not now")
        return Empty()

    await way.attempt(Branch())
    working, scripted.scripts[phase] = scripted.scripts[phase], fail
    told = [await way.settle(Branch(), phase, attempt=attempt) for attempt in range(1, 6)]

    assert {answer.kind for answer in told} == {"RETRY"}
    assert {answer.code for answer in told} == {grpc.StatusCode.INTERNAL if how == "bug" else grpc.StatusCode.NOT_FOUND}
    assert "not now" in told[0].text
    record = fence.record("default", "g-1", "0")
    assert record is not None
    assert record.state is State.TRIED

    scripted.scripts[phase] = working
    assert await way.settle(Branch(), phase) == Told("DONE")


async def test_the_handlers_retry_info_is_the_hint(way: Way, scripted: Scripted) -> None:
    hint = PbAny()
    hint.Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000)))
    details = status_pb2.Status(
        code=grpc.StatusCode.UNAVAILABLE.value[0], message="later", details=[hint]
    ).SerializeToString()

    async def later(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "later", ((wire.STATUS_DETAILS, details),))

    await way.attempt(Branch())
    scripted.scripts[Phase.CONFIRM] = later
    assert await way.settle(Branch(), Phase.CONFIRM) == Told("RETRY", grpc.StatusCode.UNAVAILABLE, "later", 2.5)


async def test_details_that_a_handler_passes_on_are_not_read_as_this_branchs_outcome(
    way: Way, scripted: Scripted
) -> None:
    code = grpc.StatusCode.FAILED_PRECONDITION
    foreign = wire.error_details(code, "of another transaction", wire.CONTRADICTED)

    async def pass_on(request: Any, context: Any) -> None:
        await context.abort(code, "of another transaction", ((wire.STATUS_DETAILS, foreign),))

    await way.attempt(Branch())
    scripted.scripts[Phase.CONFIRM] = pass_on
    assert await way.settle(Branch(), Phase.CONFIRM) == Told("RETRY", code, "of another transaction")


async def test_a_handler_out_of_time_is_told_to_be_retried(scripted: Scripted, fence: MemoryFence) -> None:
    async def endless(request: Any, context: Any) -> None:
        await asyncio.Event().wait()

    way = Direct(make_server(scripted, fence, handler_timeout=0.05))
    await way.attempt(Branch())
    scripted.scripts[Phase.CONFIRM] = endless
    told = await way.settle(Branch(), Phase.CONFIRM)
    assert (told.kind, told.code) == ("RETRY", grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_command_beside_another_delivery_is_busy(way: Way, scripted: Scripted) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: Any) -> Empty:
        entered.set()
        await leave.wait()
        return Empty()

    await way.attempt(Branch())
    scripted.scripts[Phase.CONFIRM] = slow
    first = asyncio.create_task(way.settle(Branch(), Phase.CONFIRM))
    await entered.wait()
    second = await way.settle(Branch(), Phase.CONFIRM, attempt=2)
    leave.set()

    assert second.kind == "BUSY"
    assert (second.hint or 0) > 0
    assert await first == Told("DONE")


async def test_a_commit_that_is_unknown_is_neither_done_nor_refused(scripted: Scripted) -> None:
    class Unsure(MemoryFence):
        async def visit(self, visit: Any, body: Any) -> Any:
            await super().visit(visit, body)
            raise tcc.fence.FenceUnavailable("the commit's result is unknown: disk I/O error")

    way = Direct(make_server(scripted, Unsure()))
    answer = await way.attempt(Branch(), attempt=9)
    told = await way.settle(Branch(), Phase.CONFIRM)

    assert (answer.code, answer.trailers) == (grpc.StatusCode.UNAVAILABLE, ())
    assert (told.kind, told.code) == ("RETRY", grpc.StatusCode.UNAVAILABLE)


async def test_another_request_than_the_trys_is_a_mismatch(way: Way, scripted: Scripted) -> None:
    await way.attempt(Branch())
    told = await way.settle(Branch(request_hash=b"\x0c"), Phase.CONFIRM)
    assert (told.kind, told.code) == ("RETRY", grpc.StatusCode.INVALID_ARGUMENT)
    assert "another action or request" in told.text
    assert not scripted.runs[Phase.CONFIRM]


async def test_a_command_for_an_unknown_action_is_retried_with_the_reason(way: Way) -> None:
    unknown = transaction_pb2.Methods(try_method="/no.S/Try", confirm_method="/no.S/Con", cancel_method="/no.S/Can")
    cancelled = await way.settle(Branch(methods=unknown), Phase.CANCEL)
    confirmed = await way.settle(Branch(gid="g-2", methods=unknown), Phase.CONFIRM)

    assert cancelled == Told("DONE")  # it has no row, so it holds nothing, and now never will
    assert confirmed.kind == "NO_TRY"


async def test_a_command_with_methods_of_two_actions_does_not_reach_a_handler(
    scripted: Scripted, fence: MemoryFence
) -> None:
    way = Direct(make_server(scripted, fence))
    await way.attempt(Branch())
    mixed = transaction_pb2.Methods()
    mixed.CopyFrom(METHODS)
    mixed.confirm_method = SERVICE + "ConfirmCredit"
    told = await way.settle(Branch(methods=mixed), Phase.CONFIRM)

    assert (told.kind, told.code) == ("RETRY", grpc.StatusCode.INVALID_ARGUMENT)
    assert not scripted.runs[Phase.CONFIRM]


@pytest.mark.parametrize("field", ["gid", "branch", "namespace", "phase"])
async def test_a_command_that_names_no_branch_is_retried_with_the_reason(scripted: Scripted, field: str) -> None:
    command = Branch().command(Phase.CONFIRM, 1)
    command.ClearField(field)  # type: ignore[arg-type]  # one of its fields
    outcome = await make_server(scripted).runtime.command(command)

    assert outcome.kind == transaction_pb2.OUTCOME_KIND_RETRY
    assert outcome.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert field in outcome.message


async def test_what_arrives_while_the_server_ends_is_told_to_come_later(scripted: Scripted) -> None:
    server = make_server(scripted)
    way = Direct(server)
    server.runtime.stop_taking()
    await server.runtime.idle()

    assert (await way.attempt(Branch())).code is grpc.StatusCode.UNAVAILABLE
    assert (await way.settle(Branch(), Phase.CONFIRM)).kind == "BUSY"
    assert not any(scripted.runs.values())
