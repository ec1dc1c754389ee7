"""CONTRACT.md, "Fence": the table, cell by cell, on every fence."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from tcc.fence import TABLE, Fence, Phase, Refusal, Rule, State
from tests.fence.visits import CANCEL, CONFIRM, OF, TRY, Business, run

REFUSAL = Refusal(grpc.StatusCode.NOT_FOUND, "no such account", b"\x08\x05")

# state before, phase, what the visit is told, whether business code ran, state after
CELLS = [
    (None, Phase.TRY, Rule.RUN, True, State.TRIED),
    (None, Phase.CONFIRM, Rule.NO_TRY, False, None),
    (None, Phase.CANCEL, Rule.RECORD, False, State.CANCELLED),
    (State.TRIED, Phase.TRY, Rule.REPLY, False, State.TRIED),
    (State.TRIED, Phase.CONFIRM, Rule.RUN, True, State.CONFIRMED),
    (State.TRIED, Phase.CANCEL, Rule.RUN, True, State.CANCELLED),
    (State.REFUSED, Phase.TRY, Rule.REFUSE, False, State.REFUSED),
    (State.REFUSED, Phase.CONFIRM, Rule.NO_TRY, False, State.REFUSED),
    (State.REFUSED, Phase.CANCEL, Rule.DONE, False, State.REFUSED),
    (State.CONFIRMED, Phase.TRY, Rule.REPLY, False, State.CONFIRMED),
    (State.CONFIRMED, Phase.CONFIRM, Rule.DONE, False, State.CONFIRMED),
    (State.CONFIRMED, Phase.CANCEL, Rule.CONTRADICTED, False, State.CONFIRMED),
    (State.CANCELLED, Phase.TRY, Rule.LATE_TRY, False, State.CANCELLED),
    (State.CANCELLED, Phase.CONFIRM, Rule.CONTRADICTED, False, State.CANCELLED),
    (State.CANCELLED, Phase.CANCEL, Rule.DONE, False, State.CANCELLED),
]


async def bring_to(fence: Fence, state: State | None) -> None:
    match state:
        case State.TRIED:
            await run(fence, TRY)
        case State.REFUSED:
            await fence.visit(TRY, Business(REFUSAL))
        case State.CONFIRMED:
            await run(fence, TRY, CONFIRM)
        case State.CANCELLED:
            await run(fence, TRY, CANCEL)


@pytest.mark.parametrize(("before", "phase", "rule", "runs", "after"), CELLS)
async def test_each_cell(
    fence: Fence, before: State | None, phase: Phase, rule: Rule, runs: bool, after: State | None
) -> None:
    await bring_to(fence, before)
    business = Business(b"of this visit")

    verdict = await fence.visit(OF[phase], business)

    assert verdict.rule is rule
    assert business.runs == int(runs)
    assert (verdict.record and verdict.record.state) == after
    assert await stored_state(fence) == after


def test_no_cell_is_left_out() -> None:
    assert {(before, phase) for before, phase, *_ in CELLS} == set(TABLE)
    assert len(TABLE) == (len(State) + 1) * len(Phase)


async def test_a_cancel_that_came_first_refuses_the_try_and_the_confirm(fence: Fence) -> None:
    await run(fence, CANCEL)

    assert (await run(fence, TRY)).rule is Rule.LATE_TRY
    assert (await run(fence, CONFIRM)).rule is Rule.CONTRADICTED
    assert (await run(fence, CANCEL)).rule is Rule.DONE


async def test_a_repeated_try_gets_the_first_reply_also_after_the_confirm(fence: Fence) -> None:
    await fence.visit(TRY, Business(b"first"))
    tried = await fence.visit(TRY, Business(b"second"))
    await run(fence, CONFIRM)
    confirmed = await fence.visit(TRY, Business(b"third"))

    assert tried.record is not None
    assert confirmed.record is not None
    assert (tried.record.reply, confirmed.record.reply) == (b"first", b"first")


async def test_a_repeated_try_gets_the_first_refusal_word_for_word(fence: Fence) -> None:
    await fence.visit(TRY, Business(REFUSAL))
    verdict = await fence.visit(TRY, Business(b"would reserve now"))

    assert verdict.record is not None
    assert verdict.record.refusal == REFUSAL


async def test_confirm_and_cancel_see_the_row_as_the_try_left_it(fence: Fence) -> None:
    await fence.visit(TRY, Business(b"reservation 7"))
    business = Business()
    await fence.visit(CONFIRM, business)

    assert business.seen is not None
    assert (business.seen.state, business.seen.reply) == (State.TRIED, b"reservation 7")
    assert business.seen.tried_at is not None


async def stored_state(fence: Fence) -> State | None:
    """The row's state, read by a visit that changes nothing in any state: one with other content."""
    record = (await fence.visit(replace(CONFIRM, request_hash=b"other"), Business())).record
    return None if record is None else record.state
