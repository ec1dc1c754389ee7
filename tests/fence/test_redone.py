"""A list that fails is made again one by one; what may have been committed is not told before the row was read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextvars import copy_context
from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.engine import make_url

from tcc.fence import (
    Body,
    FenceBusy,
    FenceUnavailable,
    Listed,
    Record,
    Rule,
    SharedVisits,
    SqlFence,
    Verdict,
    Visit,
    VisitAlone,
    _list,
    _sharing,
)
from tests.fence.lists import EFFECTS, add, amounts, effect, effects, in_one_list, knocking, of, prepare, verdict
from tests.fence.sharing import SharingFence
from tests.fence.test_sqlite import LosesReplies
from tests.fence.visits import CONFIRM, Business, run
from tests.servers.postgres import through
from tests.servers.proxy import Proxy


@pytest.fixture
async def fence(url: str) -> AsyncIterator[SharingFence]:
    fence = await prepare(SharingFence(url))
    yield fence
    await fence.close()


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[SharingFence]:
    fence = await prepare(SharingFence(postgres_url))
    yield fence
    await fence.close()


async def test_a_commit_that_one_effect_makes_fail_fails_that_one_alone(fence: SharingFence) -> None:
    async with fence.begin() as connection:
        await connection.execute(text("CREATE TABLE wishes (name VARCHAR PRIMARY KEY)"))
        await connection.execute(
            text("CREATE TABLE promises (wish VARCHAR REFERENCES wishes DEFERRABLE INITIALLY DEFERRED)")
        )

    async def promises(_: Record | None) -> bytes:
        await fence.session.execute(text("INSERT INTO promises VALUES ('nobody has it')"))  # checked at the commit
        return b""

    ends = await in_one_list(
        fence, [(of("g-0"), effect(fence, "g-0")), (of("g-1"), promises), (of("g-2"), effect(fence, "g-2"))]
    )

    assert isinstance(ends[1], FenceUnavailable)
    assert verdict(ends[0]).rule is verdict(ends[2]).rule is Rule.RUN
    assert (fence.lists, fence.alone) == ([3], 3)
    assert await effects(fence) == ["g-0", "g-2"]
    assert (await run(fence, of("g-1", CONFIRM))).rule is Rule.NO_TRY


async def test_a_handler_that_holds_up_its_list_goes_on_alone(
    fence: SharingFence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_list, "HANDLERS_SHARE", 0.05)
    let_go = asyncio.Event()

    async def hangs(_: Record | None) -> bytes:
        await add(fence, "a", 1)
        await let_go.wait()
        return b"at last"

    first, hanging, last = await knocking(
        fence, [(of("g-0"), effect(fence, "g-0")), (of("g-1"), hangs), (of("g-2"), effect(fence, "g-2"))]
    )
    assert (await first).rule is (await last).rule is Rule.RUN
    assert await effects(fence) == ["g-0", "g-2"]
    let_go.set()
    assert (await hanging).rule is Rule.RUN
    assert (fence.lists, fence.alone) == ([3], 1)
    assert await amounts(fence) == {"a": 101, "b": 100}


async def test_a_list_that_takes_long_is_committed_as_far_as_it_is_and_the_rest_goes_with_the_next(
    fence: SharingFence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_list, "STARTS_WITHIN", -1.0)
    ends = await in_one_list(fence, [(of(f"g-{number}"), Business()) for number in range(3)])

    assert [verdict(end).rule for end in ends] == [Rule.RUN] * 3
    assert (fence.lists, fence.alone) == ([3, 2, 1], 0)


async def test_no_list_begins_before_those_that_go_alone_after_the_last_are_done() -> None:
    underneath = FailsOnce()
    shared = SharedVisits(underneath)
    alone = asyncio.create_task(shared.visit(of("g-0"), Business()))
    await underneath.is_alone.wait()
    next_one = asyncio.create_task(shared.visit(of("g-1"), Business()))
    while shared._quiet is None:  # noqa: ASYNC110  it says nothing by itself
        await asyncio.sleep(0)
    assert underneath.lists == 1
    underneath.let_go.set()
    await asyncio.gather(alone, next_one)
    assert underneath.lists == 2


async def test_one_that_goes_alone_and_hangs_holds_lists_up_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sharing, "_ALONE_FIRST", 0.05)
    underneath = FailsOnce()
    shared = SharedVisits(underneath)
    alone = asyncio.create_task(shared.visit(of("g-0"), Business()))
    await underneath.is_alone.wait()
    await shared.visit(of("g-1"), Business())
    assert not alone.done()
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    assert not shared._alone


async def test_one_that_is_cancelled_while_its_list_waits_for_those_is_not_waited_for_by_any_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_sharing, "_ALONE_FIRST", 0.05)
    underneath = FailsOnce(fails=2)
    shared = SharedVisits(underneath)
    alone = asyncio.create_task(shared.visit(of("g-0"), Business()))
    await underneath.is_alone.wait()
    stays = asyncio.create_task(shared.visit(of("g-1"), Business()))
    goes = asyncio.create_task(shared.visit(of("g-2"), Business()))
    while shared._quiet is None:  # noqa: ASYNC110  it says nothing by itself
        await asyncio.sleep(0)
    goes.cancel()
    await asyncio.gather(goes, return_exceptions=True)
    underneath.let_go.set()
    await asyncio.gather(alone, stays)
    assert underneath.lists == 2
    assert not shared._alone


async def test_one_that_is_given_up_before_it_went_alone_is_not_waited_for_by_any_later() -> None:
    shared = SharedVisits(FailsOnce())
    told: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    listed = Listed(of("g-0"), Business(), copy_context())
    shared.visit_all([(listed, told)])
    with pytest.raises(VisitAlone):
        await told
    await shared.give_up([listed])
    async with asyncio.timeout(0.5):  # a later one would wait for it for a second
        assert (await shared.visit(of("g-1"), Business())).rule is Rule.DONE


class FailsOnce:
    """A fence whose first list (or lists) fails, and whose lonely visits wait to be let go."""

    retention = 1.0

    def __init__(self, fails: int = 1) -> None:
        self._fails = fails
        self.lists = 0
        self.is_alone = asyncio.Event()
        self.let_go = asyncio.Event()

    async def visit(self, visit: Visit, body: Body) -> Verdict:
        self.is_alone.set()
        await self.let_go.wait()
        return Verdict(Rule.DONE, None)

    async def visit_many(self, listed: Sequence[Listed]) -> Sequence[Verdict | Exception]:
        self.lists += 1
        return [VisitAlone() if self.lists <= self._fails else Verdict(Rule.DONE, None) for _ in listed]

    async def close(self) -> None:
        pass


async def test_a_handler_whose_statement_is_stopped_does_not_take_the_others_along(
    fence: SharingFence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_list, "HANDLERS_SHARE", 0.05)
    counting = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500000) SELECT count(*) FROM n"
    )

    async def counts(_: Record | None) -> bytes:
        await fence.session.execute(counting)
        return b""

    ends = await in_one_list(
        fence, [(of("g-0"), effect(fence, "g-0")), (of("g-1"), counts), (of("g-2"), effect(fence, "g-2"))]
    )
    assert [verdict(end).rule for end in ends] == [Rule.RUN] * 3
    assert await effects(fence) == ["g-0", "g-2"]


async def test_on_sqlite_a_commit_that_was_done_and_lost_is_told_from_the_rows(sqlite_url: str) -> None:
    fence = await prepare(SharingFence(sqlite_url))
    lossy = SharingFence(sqlite_url)
    lost: list[LosesReplies] = []

    @event.listens_for(lossy.engine.sync_engine, "connect")
    def lose(connection: Any, _entry: object) -> None:
        if not lost:
            driver = connection.driver_connection
            driver._connection = LosesReplies(driver._connection, only=2)  # the list; the one before it goes well
            lost.append(driver._connection)

    ends = await in_one_list(lossy, [(of(f"g-{number}"), effect(lossy, f"g-{number}")) for number in range(4)])
    assert [verdict(end).rule for end in ends] == [Rule.REPLY] * 4
    assert (lossy.lists, lossy.alone) == ([4], 4)
    assert await effects(fence) == [f"g-{number}" for number in range(4)]
    await lossy.close()
    await fence.close()


# PostgreSQL.


async def test_a_commit_whose_reply_is_lost_is_told_from_the_rows(postgres: SharingFence, postgres_url: str) -> None:
    async with Proxy(make_url(postgres_url).port or 0) as proxy:
        fence = SharingFence(through(proxy, postgres_url))

        async def loses(_: Record | None) -> bytes:
            proxy.lose_reply_to(b"COMMIT;")
            return b""

        ends = await in_one_list(
            fence, [(of(f"g-{number}"), effect(fence, f"g-{number}")) for number in range(3)] + [(of("g-3"), loses)]
        )
        assert proxy.lost == 1
        assert [verdict(end).rule for end in ends] == [Rule.REPLY] * 4
        assert (fence.lists, fence.alone) == ([4], 4)
        await fence.close()
    assert await effects(postgres) == ["g-0", "g-1", "g-2"]


async def test_a_serialization_failure_of_one_makes_all_again_alone(postgres: SharingFence) -> None:
    failures = 0

    async def fails_once(_: Record | None) -> bytes:
        nonlocal failures
        await postgres.session.execute(insert(EFFECTS).values(name="g-1"))
        failures += 1
        if failures == 1:
            await postgres.session.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"))
        return b""

    ends = await in_one_list(
        postgres, [(of("g-0"), effect(postgres, "g-0")), (of("g-1"), fails_once), (of("g-2"), effect(postgres, "g-2"))]
    )
    assert [verdict(end).rule for end in ends] == [Rule.RUN] * 3
    assert (postgres.lists, postgres.alone) == ([3], 3)
    assert await effects(postgres) == ["g-0", "g-1", "g-2"]


async def test_a_row_that_another_instance_holds_delays_its_own_visit_alone(
    postgres: SharingFence, postgres_url: str
) -> None:
    other = SqlFence(postgres_url)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def holds(_: Record | None) -> bytes:
        entered.set()
        await leave.wait()
        return b""

    holding = asyncio.create_task(other.visit(of("g-1"), holds))
    await entered.wait()
    first, delayed, last = await knocking(
        postgres, [(of(f"g-{number}"), effect(postgres, f"g-{number}")) for number in range(3)]
    )
    assert (await first).rule is (await last).rule is Rule.RUN
    assert await effects(postgres) == ["g-0", "g-2"]
    leave.set()
    assert (await delayed).rule is Rule.REPLY
    assert (await holding).rule is Rule.RUN
    await other.close()


async def test_two_instances_with_overlapping_lists_and_hot_rows_both_finish_with_each_effect_once(
    postgres: SharingFence, postgres_url: str
) -> None:
    other = SharingFence(postgres_url)

    def moves(fence: SharingFence, number: int) -> Body:
        async def body(_: Record | None) -> bytes:
            giver, taker = ("a", "b") if number % 2 else ("b", "a")  # so that lists lock them in both orders
            await add(fence, giver, -1)
            await add(fence, taker, 1)
            await fence.session.execute(insert(EFFECTS).values(name=f"g-{number}"))
            return b""

        return body

    async def until_done(fence: SharingFence, number: int) -> None:
        while True:
            try:
                await fence.visit(of(f"g-{number}"), moves(fence, number))
                return
            except FenceBusy as busy:
                await asyncio.sleep(busy.retry_after * number / 100)

    async with asyncio.timeout(60):
        await asyncio.gather(*(until_done(fence, number) for number in range(100) for fence in (postgres, other)))

    assert await effects(postgres) == sorted(f"g-{number}" for number in range(100))
    assert await amounts(postgres) == {"a": 100, "b": 100}
    assert max(postgres.lists) > 1
    await other.close()
