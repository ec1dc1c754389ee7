"""What every fence does beyond the table: content, failing business code, and visits side by side."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import pytest

from tcc.fence import Fence, Record, Refusal, Rule, State, Verdict, Visit
from tests.fence.visits import CANCEL, CONFIRM, TRY, Business, never, run


@pytest.mark.parametrize(
    "other", [replace(TRY, request_hash=b"other"), replace(TRY, action="/bank.Bank/TryCredit")], ids=["hash", "action"]
)
async def test_the_same_ids_with_other_content_are_a_mismatch_in_every_phase(fence: Fence, other: Visit) -> None:
    await run(fence, TRY)
    for visit in (TRY, CONFIRM, CANCEL):
        strange = replace(other, phase=visit.phase)
        assert (await fence.visit(strange, never)).rule is Rule.MISMATCH
    assert (await run(fence, CONFIRM)).rule is Rule.RUN


async def test_a_sender_that_does_not_know_the_action_is_not_compared_by_it(fence: Fence) -> None:
    await run(fence, TRY)
    assert (await run(fence, replace(CANCEL, action=""))).rule is Rule.RUN


async def test_ids_that_are_prefixes_of_each_other_do_not_touch(fence: Fence) -> None:
    for visit in (
        TRY,
        replace(TRY, gid="g-10"),
        replace(TRY, branch="00"),
        replace(TRY, namespace="default2"),
        replace(TRY, gid="G-1"),
    ):
        assert (await run(fence, visit)).rule is Rule.RUN


@pytest.mark.parametrize("visit", [TRY, CONFIRM, CANCEL], ids=lambda visit: visit.phase)
async def test_business_code_that_raises_leaves_no_trace_and_its_error_comes_out(fence: Fence, visit: Visit) -> None:
    if visit is not TRY:
        await run(fence, TRY)
    failure = ValueError("bug")
    failure.__cause__ = KeyError("why")
    with pytest.raises(ValueError, match="bug") as raised:
        await fence.visit(visit, Business(failure))

    assert raised.value is failure
    assert isinstance(failure.__cause__, KeyError)
    assert (await run(fence, visit)).rule is Rule.RUN


async def test_cancelled_business_code_leaves_no_trace(fence: Fence) -> None:
    entered = asyncio.Event()

    async def endless(_: Record | None) -> bytes:
        entered.set()
        await asyncio.Event().wait()
        return b""

    visiting = asyncio.create_task(fence.visit(TRY, endless))
    await entered.wait()
    visiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visiting

    assert (await run(fence, CONFIRM)).rule is Rule.NO_TRY
    assert (await run(fence, TRY)).rule is Rule.RUN


async def test_twenty_tries_of_one_branch_run_once_and_are_answered_alike(fence: Fence) -> None:
    runs = 0

    async def reserve(_: Record | None) -> bytes:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return f"reservation {runs}".encode()

    verdicts = await asyncio.gather(*(fence.visit(TRY, reserve) for _ in range(20)))

    assert runs == 1
    assert {verdict.record and verdict.record.reply for verdict in verdicts} == {b"reservation 1"}
    assert sorted(verdict.rule.name for verdict in verdicts) == ["REPLY"] * 19 + ["RUN"]


async def test_twenty_confirms_have_one_effect(fence: Fence) -> None:
    await run(fence, TRY)
    business = Business()
    verdicts = await asyncio.gather(*(fence.visit(CONFIRM, business) for _ in range(20)))

    assert business.runs == 1
    assert all(verdict.rule in (Rule.RUN, Rule.DONE) for verdict in verdicts)


@pytest.mark.parametrize("cancel_first", [False, True])
async def test_a_try_and_a_cancel_side_by_side_leave_nothing_reserved(fence: Fence, cancel_first: bool) -> None:
    reserved = 0

    async def reserve(_: Record | None) -> bytes:
        nonlocal reserved
        await asyncio.sleep(0)
        reserved += 1
        return b""

    async def give_back(_: Record | None) -> bytes:
        nonlocal reserved
        reserved -= 1
        return b""

    order = [fence.visit(CANCEL, give_back), fence.visit(TRY, reserve)]
    await asyncio.gather(*(order if cancel_first else reversed(order)))

    assert reserved == 0
    verdict = await run(fence, TRY)
    assert verdict == Verdict(Rule.LATE_TRY, verdict.record)
    assert verdict.record is not None
    assert verdict.record.state is State.CANCELLED


async def test_other_branches_go_on_after_a_refusal(fence: Fence) -> None:
    await fence.visit(TRY, Business(Refusal(grpc.StatusCode.NOT_FOUND, "no such account")))
    assert (await run(fence, replace(TRY, branch="1"))).rule is Rule.RUN
