"""Visits that share a transaction: each has its own verdict, and no handler's end touches another's effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import replace

import grpc
import pytest
from sqlalchemy import event, insert
from sqlalchemy.exc import IntegrityError

import tcc
from tcc.fence import Body, MemoryFence, Record, Refusal, Rule
from tests.fence.lists import (
    EFFECTS,
    Held,
    add,
    amounts,
    effect,
    effects,
    in_one_list,
    of,
    prepare,
    verdict,
)
from tests.fence.sharing import SharingFence
from tests.fence.visits import CANCEL, CONFIRM, TRY, Business, never, run

NO_MONEY = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "no money", b"\x08\x09")


@pytest.fixture
async def fence(url: str) -> AsyncIterator[SharingFence]:
    fence = await prepare(SharingFence(url))
    yield fence
    await fence.close()


async def test_what_arrives_while_a_list_is_under_way_shares_the_next_transaction(fence: SharingFence) -> None:
    names = [f"g-{number}" for number in range(20)]
    ends = await in_one_list(fence, [(of(name), effect(fence, name)) for name in names])

    assert [verdict(end).rule for end in ends] == [Rule.RUN] * 20
    assert (fence.lists, fence.alone) == ([20], 0)
    assert await effects(fence) == sorted(names)


async def test_lists_are_bounded(fence: SharingFence) -> None:
    ends = await in_one_list(fence, [(of(f"g-{number}"), Business()) for number in range(300)])

    assert [verdict(end).rule for end in ends] == [Rule.RUN] * 300
    assert fence.lists == [128, 128, 44]


async def test_one_alone_goes_at_once(fence: SharingFence) -> None:
    await run(fence, TRY, CONFIRM)
    assert fence.lists == [1, 1]


async def test_in_a_mixed_list_each_gets_its_own_verdict_and_leaves_its_own_row(fence: SharingFence) -> None:
    for gid in ("duplicate", "confirmed", "cancelled", "stranger"):
        await run(fence, of(gid))

    async def refuses(_: Record | None) -> Refusal:
        await fence.session.execute(insert(EFFECTS).values(name="refused"))
        await fence.session.commit()
        return NO_MONEY

    async def fails(_: Record | None) -> bytes:
        await fence.session.execute(insert(EFFECTS).values(name="failed"))
        await fence.session.commit()
        raise KeyError("bug")

    async def clashes(_: Record | None) -> bytes:
        await fence.session.execute(insert(EFFECTS).values(name="done"))
        return b""

    async def undoes(_: Record | None) -> bytes:
        await fence.session.execute(insert(EFFECTS).values(name="undone"))
        await fence.session.rollback()
        return b""

    pairs: list[tuple[str, object, Body]] = [
        ("done", TRY, effect(fence, "done")),
        ("duplicate", TRY, never),
        ("confirmed", CONFIRM, effect(fence, "confirmed")),
        ("cancelled", CANCEL, effect(fence, "cancelled")),
        ("failed", TRY, fails),
        ("failed-clash", TRY, clashes),
        ("never-tried", CONFIRM, never),
        ("not-yet-tried", CANCEL, never),
        ("refused", TRY, refuses),
        ("stranger", replace(TRY, request_hash=b"another"), never),
        ("undone", TRY, undoes),
    ]
    ends = await in_one_list(fence, [(of(gid, visit), body) for gid, visit, body in pairs])  # type: ignore[arg-type]  # visits
    by_name = dict(zip([gid for gid, _, _ in pairs], ends, strict=True))

    failures = {name: type(end) for name, end in by_name.items() if isinstance(end, Exception)}
    assert failures == {"failed": KeyError, "failed-clash": IntegrityError, "undone": tcc.UsageError}
    rules = {name: verdict(end).rule for name, end in by_name.items() if not isinstance(end, Exception)}
    assert rules == {
        "done": Rule.RUN,
        "duplicate": Rule.REPLY,
        "confirmed": Rule.RUN,
        "cancelled": Rule.RUN,
        "never-tried": Rule.NO_TRY,
        "not-yet-tried": Rule.RECORD,
        "refused": Rule.RUN,
        "stranger": Rule.MISMATCH,
    }
    assert (fence.lists, fence.alone) == ([11], 0)
    assert await effects(fence) == ["cancelled", "confirmed", "done"]

    assert (await run(fence, of("done"))).rule is Rule.REPLY
    for without_a_row in ("failed", "failed-clash", "never-tried", "undone"):
        assert (await run(fence, of(without_a_row))).rule is Rule.RUN
    refused = await run(fence, of("refused"))
    assert refused.record is not None
    assert (refused.rule, refused.record.refusal) == (Rule.REFUSE, NO_MONEY)
    assert (await run(fence, of("not-yet-tried"))).rule is Rule.LATE_TRY
    assert (await run(fence, of("confirmed", CANCEL))).rule is Rule.CONTRADICTED
    assert (await run(fence, of("cancelled", CONFIRM))).rule is Rule.CONTRADICTED


async def test_a_list_in_which_nothing_was_done_leaves_no_row(fence: SharingFence) -> None:
    ends = await in_one_list(
        fence, [(of("failed"), Business(ValueError("bug"))), (of("never-tried", CONFIRM), Business())]
    )
    assert isinstance(ends[0], ValueError)
    for gid in ("failed", "never-tried"):
        assert (await run(fence, of(gid))).rule is Rule.RUN


async def test_handlers_of_a_list_see_what_those_before_them_did(fence: SharingFence) -> None:
    async def debit(_: Record | None) -> bytes | Refusal:
        return b"" if await add(fence, "a", -30) >= 0 else NO_MONEY

    ends = await in_one_list(fence, [(of(f"g-{number}"), debit) for number in range(5)])

    assert [verdict(end).record.refusal is None for end in ends if verdict(end).record] == [True] * 3 + [False] * 2  # type: ignore[union-attr]  # not None
    assert await amounts(fence) == {"a": 10, "b": 100}
    assert fence.lists == [5]


async def test_handlers_of_a_list_run_one_after_the_other_in_the_order_of_their_keys(fence: SharingFence) -> None:
    running: list[str] = []
    order: list[str] = []

    def body(name: str) -> Body:
        async def run_alone(_: Record | None) -> bytes:
            assert not running
            running.append(name)
            await add(fence, "a", 1)
            await asyncio.sleep(0)
            running.remove(name)
            order.append(name)
            return b""

        return run_alone

    names = ["g-7", "G-1", "g-10", "a.b", "g-2"]
    await in_one_list(fence, [(of(name), body(name)) for name in names])
    assert order == sorted(names)


async def test_visits_of_one_branch_never_share_a_list_and_keep_their_order(fence: SharingFence) -> None:
    one = replace(TRY, branch="1")
    ends = await in_one_list(
        fence, [(TRY, Business(b"first")), (CONFIRM, Business()), (one, Business()), (TRY, never), (CANCEL, never)]
    )

    assert [verdict(end).rule for end in ends] == [Rule.RUN, Rule.RUN, Rule.RUN, Rule.REPLY, Rule.CONTRADICTED]
    assert fence.lists == [2, 1, 1, 1]


async def test_each_handler_runs_in_its_callers_context(fence: SharingFence) -> None:
    caller: ContextVar[str] = ContextVar("caller")
    seen: dict[str, str] = {}

    async def call(name: str) -> None:
        async def body(_: Record | None) -> bytes:
            seen[name] = caller.get()
            assert fence.session is fence.session
            return b""

        caller.set(f"caller of {name}")
        await fence.visit(of(name), body)

    names = [f"g-{number}" for number in range(5)]
    async with Held(fence):
        calls = [asyncio.create_task(call(name)) for name in names]
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    assert fence.lists == [5]
    assert seen == {name: f"caller of {name}" for name in names}


async def test_each_handler_has_a_session_of_its_own_and_only_while_it_runs(fence: SharingFence) -> None:
    sessions = []

    async def body(_: Record | None) -> bytes:
        sessions.append(fence.session)
        await add(fence, "a", 1)
        return b""

    await in_one_list(fence, [(of(f"g-{number}"), body) for number in range(3)])
    assert len({id(session) for session in sessions}) == 3
    for session in sessions:
        with pytest.raises(tcc.UsageError, match="phase is over"):
            await session.execute(insert(EFFECTS).values(name="too late"))
    assert await effects(fence) == []


async def test_a_handler_that_does_not_use_its_session_costs_no_statement_of_its_own(fence: SharingFence) -> None:
    statements: list[str] = []

    @event.listens_for(fence.engine.sync_engine, "before_cursor_execute")
    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    await in_one_list(fence, [(of(f"g-{number}"), Business()) for number in range(10)])
    assert statements == []


# Cancelled.


async def test_a_visit_that_is_cancelled_while_it_waits_is_left_out(fence: SharingFence) -> None:
    business = Business()
    async with Held(fence):
        visits = [asyncio.create_task(fence.visit(of(f"g-{number}"), business)) for number in range(3)]
        await asyncio.sleep(0)
        visits[1].cancel()
    await asyncio.gather(*visits, return_exceptions=True)

    assert visits[1].cancelled()
    assert (business.runs, fence.lists) == (2, [2])
    assert (await run(fence, of("g-1", CONFIRM))).rule is Rule.NO_TRY


@pytest.mark.parametrize("swallows", [False, True], ids=["ends", "goes on"])
async def test_a_visit_that_is_cancelled_while_its_handler_runs_is_undone_and_the_others_stay(
    fence: SharingFence, swallows: bool
) -> None:
    entered = asyncio.Event()

    async def waits(_: Record | None) -> bytes:
        await add(fence, "a", 1)
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallows:
                raise
        return b""

    async with Held(fence):
        before = asyncio.create_task(fence.visit(of("g-0"), effect(fence, "before")))
        visiting = asyncio.create_task(fence.visit(of("g-1"), waits))
        after = asyncio.create_task(fence.visit(of("g-2"), effect(fence, "after")))
    await entered.wait()
    visiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visiting

    assert (await before).rule is (await after).rule is Rule.RUN
    assert fence.lists == [3]
    assert await effects(fence) == ["after", "before"]
    assert (await amounts(fence))["a"] == 100
    assert (await run(fence, of("g-1"))).rule is Rule.RUN


async def test_a_cancelled_visit_returns_only_when_its_list_is_over(fence: SharingFence) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_: Record | None) -> bytes:
        entered.set()
        await leave.wait()
        return b""

    async with Held(fence):
        first = asyncio.create_task(fence.visit(of("g-0"), slow))
        second = asyncio.create_task(fence.visit(of("g-1"), never))
    await entered.wait()
    second.cancel()
    second.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.done()
    leave.set()
    assert (await first).rule is Rule.RUN
    with pytest.raises(asyncio.CancelledError):
        await second


# Fences without lists.


async def test_a_fence_without_lists_is_no_list_fence() -> None:
    assert not isinstance(MemoryFence(), tcc.fence.ListFence)
