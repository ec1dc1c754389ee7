"""The contract of the Courier seam: commands out, outcomes back, never a word raised."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from tcc.v1 import transaction_pb2
from tests.links.participant import Links, command

pytestmark = pytest.mark.parametrize("links", ["lists", "known", "calls", "local", "rabbitmq"], indirect=True)

DONE = transaction_pb2.OUTCOME_KIND_DONE
RETRY = transaction_pb2.OUTCOME_KIND_RETRY


async def test_a_command_is_carried_out_and_answered(links: Links) -> None:
    await links.reserve()
    links.courier.send([command()])
    outcome = await links.outcome()
    assert (outcome.kind, outcome.gid, outcome.branch) == (DONE, "g", "0")
    assert outcome.phase == transaction_pb2.PHASE_CONFIRM
    assert links.told.runs == ["try g", "confirm g"]


async def test_each_command_of_a_list_is_answered(links: Links) -> None:
    for gid in ("a", "b", "c"):
        await links.reserve(gid)
    links.courier.send([command("a"), command("b", confirm=False), command("c")])
    outcomes = [await links.outcome() for _ in range(3)]
    assert sorted((outcome.gid, outcome.kind) for outcome in outcomes) == [("a", DONE), ("b", DONE), ("c", DONE)]


async def test_a_confirm_without_a_try_is_no_try(links: Links) -> None:
    links.courier.send([command()])
    assert (await links.outcome()).kind == transaction_pb2.OUTCOME_KIND_NO_TRY


async def test_a_cancel_without_a_try_is_done_without_business_code(links: Links) -> None:
    links.courier.send([command(confirm=False)])
    assert (await links.outcome()).kind == DONE
    assert links.told.runs == []


async def test_the_opposite_of_what_was_done_is_contradicted(links: Links) -> None:
    await links.reserve()
    links.courier.send([command(confirm=False)])
    await links.outcome()
    links.courier.send([command()])
    outcome = await links.outcome()
    assert (outcome.kind, outcome.reason) == (transaction_pb2.OUTCOME_KIND_CONTRADICTED, "CANCELLED")


async def test_a_handler_that_fails_is_a_retry_with_its_code_text_and_hint(links: Links) -> None:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3)))
    details = status_pb2.Status(code=9, details=[detail]).SerializeToString()

    async def fail(context: Any) -> None:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet", (("grpc-status-details-bin", details),))

    await links.reserve()
    links.told.on_confirm = fail
    links.courier.send([command()])
    outcome = await links.outcome()
    assert (outcome.kind, outcome.code, outcome.message) == (RETRY, 9, "not yet")
    assert outcome.retry_after.seconds == 3


async def test_a_handler_with_a_bug_is_a_retry_and_its_effect_can_still_come(links: Links) -> None:
    async def bug(context: Any) -> None:
        raise KeyError("x")

    await links.reserve()
    fine, links.told.on_confirm = links.told.on_confirm, bug
    links.courier.send([command()])
    assert (await links.outcome()).kind == RETRY
    links.told.on_confirm = fine
    links.courier.send([command()])
    assert (await links.outcome()).kind == DONE


async def test_another_payload_than_the_trys_is_never_done(links: Links) -> None:
    await links.reserve()
    links.courier.send([command(request_hash=b"\x02" * 16)])
    assert (await links.outcome()).kind == RETRY
    assert links.told.runs == ["try g"]


async def test_a_participant_that_hangs_delays_nobody_else(links: Links) -> None:
    async def hang(context: Any) -> None:
        await asyncio.Event().wait()

    await links.reserve("stuck")
    await links.reserve("fine", "other")
    links.told.on_confirm = hang
    links.courier.send([command("stuck")])
    links.courier.send([command("fine", "other")])
    assert (await links.outcome()).gid == "fine"


async def test_a_command_that_is_being_carried_out_is_not_sent_twice(links: Links) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(context: Any) -> None:
        started.set()
        await go_on.wait()

    await links.reserve()
    links.told.on_confirm = slow
    links.courier.send([command()])
    await started.wait()
    links.courier.send([command(), command()])
    go_on.set()
    assert (await links.outcome()).kind == DONE
    assert links.told.runs == ["try g", "confirm g"]
    assert links.outcomes.empty()


async def test_a_command_to_nobody_raises_nothing(links: Links) -> None:
    await links.reserve("fine", "other")
    links.courier.send([command("lost", "nobody"), command("fine", "other")])
    outcomes = [await links.outcome()]
    if outcomes[0].gid == "lost":
        assert outcomes[0].kind == RETRY
        outcomes.append(await links.outcome())
    assert outcomes[-1].kind == DONE


async def test_nothing_arrives_after_the_close(links: Links) -> None:
    started = asyncio.Event()

    async def slow(context: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    await links.reserve()
    links.told.on_confirm = slow
    links.courier.send([command()])
    await started.wait()
    await links.courier.close()
    await links.courier.close()
    assert links.outcomes.empty()
