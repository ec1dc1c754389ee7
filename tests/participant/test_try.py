"""A Try's answer: what is marked, what is recorded, what is left unknown. The same by gRPC and within the process."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

import grpc
import pytest

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from tcc import wire
from tcc.actions import action_of
from tcc.fence import MemoryFence, Phase, State
from tcc.v1 import transaction_pb2
from tests.participant.scripted import (
    METHODS,
    PATHS,
    REPLY,
    SERVICE,
    Branch,
    Direct,
    Scripted,
    Way,
    is_marked,
    make_server,
    reason_of,
)

REFUSING = sorted(tcc.Refused.CODES, key=lambda code: code.value[0])
UNKNOWN = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
]


def state(fence: MemoryFence) -> State | None:
    record = fence.record("default", "g-1", "0")
    return None if record is None else record.state


async def test_a_reserved_try_is_answered_with_the_reply_each_time(way: Way, scripted: Scripted) -> None:
    first = await way.attempt(Branch())
    again = await way.attempt(Branch(), attempt=2)

    assert first == again
    assert first.code is grpc.StatusCode.OK
    assert pb.DebitReply.FromString(first.reply) == REPLY
    assert scripted.runs[Phase.TRY] == 1


@pytest.mark.parametrize("code", REFUSING)
@pytest.mark.parametrize("how", ["Refused", "abort", "set_code"])
async def test_a_refusal_is_marked_recorded_and_repeated(
    way: Way, scripted: Scripted, fence: MemoryFence, how: str, code: grpc.StatusCode
) -> None:
    async def refuse(request: Any, context: Any) -> pb.DebitReply:
        match how:
            case "Refused":
                raise tcc.Refused("not enough", code)
            case "abort":
                await context.abort(code, "not enough")
        context.set_code(code)
        context.set_details("not enough")
        return pb.DebitReply()

    scripted.scripts[Phase.TRY] = refuse
    first = await way.attempt(Branch())
    again = await way.attempt(Branch(), attempt=2)

    assert (first.code, first.message, is_marked(first)) == (code, "not enough", True)
    assert again == first
    assert scripted.runs[Phase.TRY] == 1
    assert state(fence) is State.REFUSED


@pytest.mark.parametrize("code", UNKNOWN)
async def test_an_abort_that_refuses_nothing_is_rolled_back_unmarked_and_tried_again(
    way: Way, scripted: Scripted, fence: MemoryFence, code: grpc.StatusCode
) -> None:
    async def abort(request: Any, context: Any) -> None:
        await context.abort(code, "later")

    scripted.scripts[Phase.TRY] = abort
    answer = await way.attempt(Branch(), attempt=9)

    assert (answer.code, answer.message, is_marked(answer)) == (code, "later", False)
    assert state(fence) is None
    await way.attempt(Branch())
    assert scripted.runs[Phase.TRY] == 2


async def test_a_bug_is_repeated_twice_and_then_refused_with_the_reason(
    way: Way, scripted: Scripted, fence: MemoryFence, caplog: pytest.LogCaptureFixture
) -> None:
    async def bug(request: Any, context: Any) -> None:
        raise KeyError("accuont")

    scripted.scripts[Phase.TRY] = bug
    with caplog.at_level(logging.ERROR):
        answers = [await way.attempt(Branch(), attempt=attempt) for attempt in (1, 2, 3, 4)]

    assert [(answer.code, is_marked(answer)) for answer in answers] == [
        (grpc.StatusCode.INTERNAL, False),
        (grpc.StatusCode.INTERNAL, False),
        (grpc.StatusCode.ABORTED, True),
        (grpc.StatusCode.ABORTED, True),
    ]
    assert reason_of(answers[2]) == "HANDLER_FAILED"
    assert "KeyError: 'accuont'" in answers[2].message
    assert answers[3] == answers[2]
    assert state(fence) is State.REFUSED
    assert scripted.runs[Phase.TRY] == 3
    tracebacks = [record for record in caplog.records if record.name == "tcc.participant" and record.exc_info]
    assert len(tracebacks) == 3  # one for each run that failed


@pytest.mark.parametrize("reply", [None, pb.CreditReply(reservation_id="of another method")], ids=["None", "other"])
async def test_a_handler_that_returns_no_reply_of_its_method_has_a_bug(
    way: Way, scripted: Scripted, fence: MemoryFence, reply: object
) -> None:
    async def wrong(request: Any, context: Any) -> object:
        return reply

    scripted.scripts[Phase.TRY] = wrong
    answer = await way.attempt(Branch())
    assert answer.code is grpc.StatusCode.INTERNAL
    assert state(fence) is None


async def test_a_handler_out_of_time_is_rolled_back_and_unknown(
    way: Way, scripted: Scripted, fence: MemoryFence
) -> None:
    stopped = asyncio.Event()

    async def endless(request: Any, context: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    scripted.scripts[Phase.TRY] = endless
    answer = await way.attempt(Branch(), timeout=0.05, attempt=9)

    assert (answer.code, is_marked(answer)) == (grpc.StatusCode.DEADLINE_EXCEEDED, False)
    await stopped.wait()
    assert state(fence) is None


async def test_a_handler_that_swallows_its_cancellation_is_rolled_back_all_the_same(
    scripted: Scripted, fence: MemoryFence
) -> None:
    async def stubborn(request: Any, context: Any) -> pb.DebitReply:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return REPLY

    scripted.scripts[Phase.TRY] = stubborn
    answer = await Direct(make_server(scripted, fence, handler_timeout=0.05)).attempt(Branch())

    assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert state(fence) is None


@pytest.mark.parametrize("missing", [*dict(Branch().metadata(Phase.TRY, 1))][:7])
async def test_a_call_that_names_no_branch_is_told_to_come_through_a_manager(
    way: Way, scripted: Scripted, missing: str
) -> None:
    class Partial(Branch):
        def metadata(self, phase: Phase, attempt: int) -> tuple[tuple[str, str | bytes], ...]:
            return tuple(entry for entry in super().metadata(phase, attempt) if entry[0] != missing)

    answer = await way.attempt(Partial())

    assert (answer.code, is_marked(answer)) == (grpc.StatusCode.INVALID_ARGUMENT, False)
    assert reason_of(answer) == "NOT_A_BRANCH"
    assert missing in answer.message
    assert "through a TCC manager" in answer.message
    assert not scripted.runs[Phase.TRY]


@pytest.mark.parametrize("gid", ["", "x" * 65, "a/b"])
async def test_an_id_that_is_none_is_refused_by_name(way: Way, gid: str) -> None:
    answer = await way.attempt(Branch(gid=gid))
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "tcc-gid" in answer.message


async def test_a_request_that_cannot_be_decoded_is_refused_through_the_fence(
    way: Way, scripted: Scripted, fence: MemoryFence
) -> None:
    answer = await way.attempt(Branch(request=b"\xff\xff"))

    assert (answer.code, is_marked(answer)) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert reason_of(answer) == "UNDECODABLE"
    assert state(fence) is State.REFUSED
    assert not scripted.runs[Phase.TRY]


async def test_methods_that_are_not_one_action_are_refused_through_the_fence(
    way: Way, scripted: Scripted, fence: MemoryFence
) -> None:
    mixed = transaction_pb2.Methods()
    mixed.CopyFrom(METHODS)
    mixed.cancel_method = SERVICE + "CancelCredit"
    answer = await way.attempt(Branch(methods=mixed))

    assert (answer.code, is_marked(answer)) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert reason_of(answer) == "WRONG_METHODS"
    assert SERVICE + "CancelDebit" in answer.message
    assert state(fence) is State.REFUSED
    assert not scripted.runs[Phase.TRY]


@pytest.mark.parametrize("path", [SERVICE + "TryDebt", "/no.Such/Method", SERVICE + "GetAccount"])
async def test_a_try_of_a_method_that_is_no_action_is_refused_and_says_which_are(
    way: Way, fence: MemoryFence, path: str
) -> None:
    methods = transaction_pb2.Methods(try_method=path, confirm_method=path + "1", cancel_method=path + "2")
    answer = await way.attempt(Branch(methods=methods))

    assert (answer.code, is_marked(answer)) == (grpc.StatusCode.UNIMPLEMENTED, True)
    assert path in answer.message
    assert SERVICE + "TryCredit" in answer.message
    assert state(fence) is State.REFUSED


async def test_a_try_after_the_cancel_is_refused_as_late(way: Way, scripted: Scripted) -> None:
    await way.settle(Branch(), Phase.CANCEL)
    answer = await way.attempt(Branch())

    assert (answer.code, is_marked(answer)) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert reason_of(answer) == "LATE_TRY"
    assert not scripted.runs[Phase.TRY]


async def test_a_try_over_half_the_retention_late_is_refused_unless_its_row_is_there(
    way: Way, scripted: Scripted, fence: MemoryFence
) -> None:
    late = time.time() - fence.retention / 2
    just_in_time = await way.attempt(Branch(gid="g-2", deadline=late + 60))
    too_late = await way.attempt(Branch(gid="g-3", deadline=late - 60))
    repeated = await way.attempt(Branch(gid="g-2", deadline=late - 60))

    assert just_in_time.code is repeated.code is grpc.StatusCode.OK
    assert (too_late.code, is_marked(too_late)) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert reason_of(too_late) == "LATE_TRY"
    assert scripted.runs[Phase.TRY] == 1


async def test_the_same_ids_with_another_request_are_a_mismatch_and_hold_nothing(way: Way) -> None:
    await way.attempt(Branch())
    answer = await way.attempt(Branch(request_hash=b"\x0c"))

    # Marked: what is reserved is another transaction's of these ids; a Cancel of this one would meet it for ever.
    assert (answer.code, is_marked(answer)) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert reason_of(answer) == "PAYLOAD_MISMATCH"


async def test_a_try_beside_another_delivery_is_told_to_come_later(way: Way, scripted: Scripted) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: Any) -> pb.DebitReply:
        entered.set()
        await leave.wait()
        return REPLY

    scripted.scripts[Phase.TRY] = slow
    first = asyncio.create_task(way.attempt(Branch()))
    await entered.wait()
    second = await way.attempt(Branch(), attempt=2)
    leave.set()

    assert (second.code, is_marked(second)) == (grpc.StatusCode.UNAVAILABLE, False)
    assert (wire.retry_delay(second.details) or 0) > 0
    assert (await first).code is grpc.StatusCode.OK
    assert scripted.runs[Phase.TRY] == 1


@pytest.mark.parametrize("letter", ["x", "\u20ac"])
async def test_long_error_texts_are_cut_to_what_fits_into_trailers(way: Way, scripted: Scripted, letter: str) -> None:
    async def refuse(request: Any, context: Any) -> None:
        raise tcc.Refused(letter * 100_000)

    scripted.scripts[Phase.TRY] = refuse
    answer = await way.attempt(Branch())
    assert (answer.code, is_marked(answer)) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert answer.message.startswith(letter * 300)
    assert answer.message.endswith("...")


def test_the_paths_of_this_module_are_those_of_the_proto() -> None:
    action = action_of(PATHS[Phase.TRY])
    assert action is not None
    assert (action.confirm_method, action.cancel_method) == (PATHS[Phase.CONFIRM], PATHS[Phase.CANCEL])
