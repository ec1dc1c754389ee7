"""`SqlFence.first`: handlers of a list begin together, and each of them is still on its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import grpc
import pytest
from sqlalchemy import (
    Column,
    DateTime,
    Executable,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, StatementError

import tcc
from tcc.fence import Body, FenceBusy, Record, Refusal, Rule, _list
from tests.fence.lists import ACCOUNTS, EFFECTS, Held, add, amounts, effect, effects, in_one_list, of, prepare, verdict
from tests.fence.sharing import SharingFence
from tests.fence.visits import CONFIRM, run

A = ACCOUNTS.c
TAKE = (
    update(ACCOUNTS)
    .where(A.name == bindparam("account"), A.amount >= bindparam("cents"))
    .values(amount=A.amount - bindparam("cents"))
    .returning(A.amount)
)
WRITE = insert(EFFECTS).values(name=bindparam("effect")).returning(EFFECTS.c.name)
LOOK = select(EFFECTS.c.name).where(EFFECTS.c.name == bindparam("effect"))
NO_MONEY = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "no money")


@pytest.fixture
async def fence(url: str) -> AsyncIterator[SharingFence]:
    fence = await prepare(SharingFence(url))
    yield fence
    await fence.close()


def take(fence: SharingFence, cents: int, account: str = "a") -> Body:
    """Takes money, or refuses."""

    async def body(_: Record | None) -> bytes | Refusal:
        left = await fence.first(TAKE, account=account, cents=cents)
        return NO_MONEY if left is None else str(left[0]).encode()

    return body


def write(fence: SharingFence, name: str) -> Body:
    """Writes a row."""

    async def body(_: Record | None) -> bytes:
        row = await fence.first(WRITE, effect=name)
        assert row == (name,)
        return name.encode()

    return body


def replies(ends: list[tcc.fence.Verdict | BaseException]) -> list[bytes | None]:
    return [record.reply if (record := verdict(end).record) else None for end in ends]


async def test_each_sees_what_those_before_it_have_left(fence: SharingFence) -> None:
    ends = await in_one_list(fence, [(of(f"g-{number}"), take(fence, 10)) for number in range(5)])
    assert replies(ends) == [b"90", b"80", b"70", b"60", b"50"]
    assert (fence.lists, fence.alone) == ([5], 0)
    assert await amounts(fence) == {"a": 50, "b": 100}


async def test_their_statements_need_no_trip_each(fence: SharingFence) -> None:
    statements: list[str] = []

    @event.listens_for(fence.engine.sync_engine, "before_cursor_execute")
    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    bodies = [take(fence, 1), write(fence, "x"), take(fence, 1, "b"), write(fence, "y")]
    await in_one_list(fence, [(of(f"g-{number}"), body) for number, body in enumerate(bodies)])
    assert statements == []
    assert await amounts(fence) == {"a": 99, "b": 99}
    assert await effects(fence) == ["x", "y"]


async def test_those_for_whom_nothing_is_left_refuse_and_the_others_stay(fence: SharingFence) -> None:
    ends = await in_one_list(fence, [(of(f"g-{number}"), take(fence, 40)) for number in range(4)])
    records = [verdict(end).record for end in ends]
    assert [record.refusal if record else None for record in records] == [None, None, NO_MONEY, NO_MONEY]
    assert (fence.lists, fence.alone) == ([4], 0)
    assert (await amounts(fence))["a"] == 20
    again = await run(fence, of("g-3"))
    assert (again.rule, again.record and again.record.refusal) == (Rule.REFUSE, NO_MONEY)


async def test_a_statement_that_fails_fails_its_own_handler_alone(fence: SharingFence) -> None:
    names = ["x", "y", "x", "z"]
    ends = await in_one_list(fence, [(of(f"g-{at}"), write(fence, name)) for at, name in enumerate(names)])
    assert isinstance(ends[2], IntegrityError)
    assert [verdict(ends[at]).rule for at in (0, 1, 3)] == [Rule.RUN] * 3
    assert (fence.lists, fence.alone) == ([4], 0)
    assert await effects(fence) == ["x", "y", "z"]
    assert (await run(fence, of("g-2", CONFIRM))).rule is Rule.NO_TRY


async def test_a_handler_may_go_on_after_its_statement_failed(fence: SharingFence) -> None:
    async def body(_: Record | None) -> bytes:
        with pytest.raises(IntegrityError):
            await fence.first(WRITE, effect="x")
        await fence.session.rollback()
        raise tcc.Refused("it is there")

    ends = await in_one_list(fence, [(of("g-0"), write(fence, "x")), (of("g-1"), body), (of("g-2"), write(fence, "y"))])
    assert isinstance(ends[1], tcc.Refused)
    assert await effects(fence) == ["x", "y"]


@pytest.mark.parametrize("refuses", [True, False], ids=["refuses", "raises"])
async def test_what_a_handler_changed_before_it_refused_is_undone_and_the_others_stay(
    fence: SharingFence, refuses: bool
) -> None:
    async def body(_: Record | None) -> Refusal:
        assert await fence.first(TAKE, account="a", cents=10) is not None
        if refuses:
            return NO_MONEY
        raise ValueError("a bug")

    bodies = [take(fence, 1), body, take(fence, 1, "b"), effect(fence, "x")]
    ends = await in_one_list(fence, [(of(f"g-{number}"), body) for number, body in enumerate(bodies)])
    if refuses:
        assert verdict(ends[1]).record is not None
    else:
        assert isinstance(ends[1], ValueError)
    assert replies([ends[0], ends[2], ends[3]]) == [b"99", b"99", b"x"]
    assert await amounts(fence) == {"a": 99, "b": 99}
    assert await effects(fence) == ["x"]
    assert fence.alone == 4


async def test_a_row_that_was_only_read_is_no_change_to_undo(fence: SharingFence) -> None:
    await fence.visit(of("x"), write(fence, "x"))

    async def body(_: Record | None) -> Refusal:
        assert await fence.first(LOOK, effect="x") == ("x",)
        return NO_MONEY

    await in_one_list(fence, [(of("g-0"), body), (of("g-1"), take(fence, 1)), (of("g-2"), body)])
    assert (fence.lists, fence.alone) == ([3], 0)


async def test_after_its_statement_a_handler_works_on_in_its_session(fence: SharingFence) -> None:
    def body(name: str, refusal: Refusal | None = None) -> Body:
        async def body(_: Record | None) -> bytes | Refusal:
            assert await fence.first(LOOK, effect=name) is None
            assert await fence.first(WRITE, effect=name) == (name,)
            await add(fence, "a", 1)
            return refusal or name.encode()

        return body

    pairs = [(of("g-0"), body("x")), (of("g-1"), body("y", NO_MONEY)), (of("g-2"), body("z"))]
    ends = await in_one_list(fence, pairs)
    assert [verdict(end).rule for end in ends] == [Rule.RUN] * 3
    assert await effects(fence) == ["x", "z"]
    assert (await amounts(fence))["a"] == 102
    assert (fence.lists, fence.alone) == ([3], 0)


async def test_handlers_that_use_their_session_first_share_the_list_too(fence: SharingFence) -> None:
    async def session_first(_: Record | None) -> bytes:
        await add(fence, "b", 1)
        left = await fence.first(TAKE, account="b", cents=1)
        return str(left and left[0]).encode()

    async def nothing(_: Record | None) -> bytes:
        return b""

    bodies = [take(fence, 10), session_first, nothing, take(fence, 10), effect(fence, "x")]
    ends = await in_one_list(fence, [(of(f"g-{number}"), body) for number, body in enumerate(bodies)])
    assert replies(ends) == [b"90", b"100", b"", b"80", b"x"]
    assert (fence.lists, fence.alone) == ([5], 0)


async def test_a_list_that_ends_early_stops_those_that_wait(fence: SharingFence) -> None:
    stopped = 0

    async def waits(_: Record | None) -> bytes:
        nonlocal stopped
        try:
            await fence.first(TAKE, account="a", cents=1)
        except asyncio.CancelledError:
            stopped += 1
            raise
        return b""

    async def ends_it(_: Record | None) -> bytes:
        if stopped < 2:
            raise FenceBusy("a row is busy")
        return b""

    bodies = [waits, waits, ends_it]
    ends = await in_one_list(fence, [(of(f"g-{number}"), body) for number, body in enumerate(bodies)])
    assert stopped == 2
    if all(isinstance(end, FenceBusy) for end in ends):  # SQLite: alone they would wait for the same
        assert (await amounts(fence))["a"] == 100
    else:
        assert [verdict(end).rule for end in ends] == [Rule.RUN] * 3
        assert (await amounts(fence))["a"] == 98


async def test_a_visit_that_is_cancelled_while_others_come_as_far_is_undone(fence: SharingFence) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_: Record | None) -> bytes:
        entered.set()
        await leave.wait()
        return b""

    async with Held(fence):
        before = asyncio.create_task(fence.visit(of("g-0"), take(fence, 10)))
        visiting = asyncio.create_task(fence.visit(of("g-1"), take(fence, 1)))
        after = asyncio.create_task(fence.visit(of("g-2"), slow))
    await entered.wait()
    visiting.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await visiting
    await asyncio.gather(before, after)
    assert (await amounts(fence))["a"] == 90
    assert (await run(fence, of("g-1", CONFIRM))).rule is Rule.NO_TRY


async def test_a_handler_that_waits_too_briefly_for_the_others_has_not_done_it(fence: SharingFence) -> None:
    gave_up = asyncio.Event()

    async def impatient(_: Record | None) -> bytes:
        try:
            async with asyncio.timeout(0):
                await fence.first(TAKE, account="a", cents=1)
        except TimeoutError:
            gave_up.set()
            return b"gave up"
        return b"taken"

    async def slow(_: Record | None) -> bytes:
        await gave_up.wait()
        return b""

    ends = await in_one_list(fence, [(of("g-0"), impatient), (of("g-1"), slow), (of("g-2"), take(fence, 10))])
    assert replies(ends) == [b"gave up", b"", b"90"]
    assert (await amounts(fence))["a"] == 90


async def test_what_was_done_for_a_handler_that_gave_up_is_undone(fence: SharingFence) -> None:
    limits: list[asyncio.Timeout] = []

    async def gives_up(_: Record | None) -> bytes:
        try:
            async with asyncio.timeout(None) as limit:
                limits.append(limit)
                await fence.first(TAKE, account="a", cents=1)
        except TimeoutError:
            return b"gave up"
        return b"taken"

    async def is_first(_: Record | None) -> bytes:
        await fence.first(TAKE, account="a", cents=10)
        if not limits[0].expired():  # what both asked for is done by now
            limits[0].reschedule(0)
            fired = asyncio.Event()
            asyncio.get_running_loop().call_soon(fired.set)
            await fired.wait()
            assert limits[0].expired()
        return b""

    ends = await in_one_list(fence, [(of("g-0"), is_first), (of("g-1"), gives_up)])
    assert replies(ends) == [b"", b"taken"]  # when it was made again
    assert (await amounts(fence))["a"] == 89
    assert fence.alone == 2


async def test_whoever_waits_cannot_use_the_transaction(fence: SharingFence) -> None:
    problems: list[BaseException] = []
    found = asyncio.Event()

    async def busy(_: Record | None) -> bytes:
        async def aside() -> None:
            try:
                await fence.session.execute(insert(EFFECTS).values(name="aside"))
            except tcc.UsageError as error:
                problems.append(error)
                found.set()

        task = asyncio.create_task(aside())
        await fence.first(TAKE, account="a", cents=1)
        await task
        return b""

    async def slow(_: Record | None) -> bytes:
        await found.wait()
        return b""

    await in_one_list(fence, [(of("g-0"), busy), (of("g-1"), slow)])
    assert "await that before it does more" in str(problems[0])
    assert await effects(fence) == []


async def test_one_that_is_too_slow_after_its_statement_is_made_again_alone(
    fence: SharingFence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_list, "HANDLERS_SHARE", 0.05)
    runs = 0

    async def slow(_: Record | None) -> bytes:
        nonlocal runs
        runs += 1
        await fence.first(TAKE, account="a", cents=1)
        if runs == 1:
            await asyncio.Event().wait()
        return b"at last"

    ends = await in_one_list(fence, [(of("g-0"), take(fence, 10)), (of("g-1"), slow)])
    assert replies(ends)[1] == b"at last"
    assert (await amounts(fence))["a"] == 89
    assert runs == 2


async def test_alone_it_is_a_statement_of_the_session(fence: SharingFence) -> None:
    assert (await fence.visit_alone(of("g-0"), take(fence, 10))).rule is Rule.RUN
    assert (await fence.visit_alone(of("g-1"), take(fence, 100))).record is not None
    assert (await amounts(fence))["a"] == 90


async def test_a_change_that_returns_nothing_is_refused(fence: SharingFence) -> None:
    async def body(_: Record | None) -> bytes:
        await fence.first(insert(EFFECTS).values(name="x"))
        return b""

    (end,) = await in_one_list(fence, [(of("g-0"), body)])
    assert isinstance(end, tcc.UsageError)
    assert await effects(fence) == []


async def test_outside_of_a_handler_there_is_no_transaction_for_it(fence: SharingFence) -> None:
    with pytest.raises(tcc.UsageError, match="only while a Try, Confirm or Cancel handler runs"):
        await fence.first(LOOK, effect="x")


TIMES = Table("times", MetaData(), Column("name", String, primary_key=True), Column("at", DateTime))
AT = datetime(2026, 11, 22, 18, 30)  # noqa: DTZ001  as the column has it


@pytest.mark.parametrize(
    ("statement", "given", "expected"),
    [
        (insert(TIMES).values(name="new", at=bindparam("since")).returning(TIMES.c.name), {"since": AT}, ("new",)),
        (select(TIMES.c.at).where(TIMES.c.name == bindparam("known")), {"known": "old"}, (AT,)),
        (select(TIMES.c.name).where(TIMES.c.at == bindparam("since")), {"since": AT}, ("old",)),
        (
            select(TIMES.c.name).where(TIMES.c.name.in_(bindparam("names", expanding=True))),
            {"names": ["old"]},
            ("old",),
        ),
        (select(TIMES.c.name).where(TIMES.c.name == bindparam("known", callable_=lambda: "old")), {}, ("old",)),
        (insert(TIMES).returning(TIMES.c.name), {"name": "new"}, ("new",)),
        (update(TIMES).where(TIMES.c.name == "old").values(name="new").returning(TIMES.c.name), {}, ("new",)),
        (delete(TIMES).where(TIMES.c.name == "none").returning(TIMES.c.name), {}, None),
        (text("SELECT name FROM times WHERE name = :known"), {"known": "old"}, ("old",)),
    ],
    ids=str,
)
async def test_a_row_is_the_one_that_the_session_gives(
    fence: SharingFence, statement: Executable, given: dict[str, object], expected: object
) -> None:
    async with fence.begin() as connection:
        await connection.run_sync(TIMES.metadata.create_all)
        await connection.execute(insert(TIMES).values(name="old", at=AT))
    seen: list[object] = []

    async def body(_: Record | None) -> bytes:
        seen.append(await fence.first(statement, **given))
        return b""

    ends = await in_one_list(fence, [(of("g-0"), take(fence, 1)), (of("g-1"), body), (of("g-2"), take(fence, 1))])
    assert replies(ends) == [b"99", b"", b"98"]
    assert seen == [expected]
    assert (fence.lists, fence.alone) == ([3], 0)


async def test_a_value_that_is_made_anew_each_time_is_made_anew(fence: SharingFence) -> None:
    names = iter("xyz")
    writes = insert(EFFECTS).values(name=bindparam("effect", callable_=lambda: next(names))).returning(EFFECTS.c.name)

    async def body(_: Record | None) -> bytes:
        assert await fence.first(writes) is not None
        return b""

    await in_one_list(fence, [(of(f"g-{number}"), body) for number in range(3)])
    assert await effects(fence) == ["x", "y", "z"]


async def test_a_task_of_a_handlers_own_may_ask_too(fence: SharingFence) -> None:
    async def body(_: Record | None) -> bytes:
        left = await asyncio.create_task(fence.first(TAKE, account="a", cents=1))
        return str(left and left[0]).encode()

    ends = await in_one_list(fence, [(of("g-0"), body), (of("g-1"), take(fence, 1)), (of("g-2"), body)])
    assert sorted(replies(ends), key=str) == [b"97", b"98", b"99"]
    assert (fence.lists, fence.alone) == ([3], 0)


async def test_without_one_of_its_parameters_a_statement_does_not_run(fence: SharingFence) -> None:
    async def body(_: Record | None) -> bytes:
        await fence.first(TAKE, account="a")
        return b""

    ends = await in_one_list(fence, [(of("g-0"), body), (of("g-1"), take(fence, 10))])
    assert isinstance(ends[0], StatementError)
    assert replies([ends[1]]) == [b"90"]
    assert (await amounts(fence))["a"] == 90


async def test_two_replicas_whose_lists_deadlock_leave_each_branch_with_one_effect(
    fence: SharingFence, url: str
) -> None:
    other = SharingFence(url)

    async def work(mine: SharingFence, accounts: str) -> None:
        pairs = [(of(f"{accounts}-{at}"), take(mine, 1, account)) for at, account in enumerate(accounts)]
        for end in await in_one_list(mine, pairs, held=accounts):
            assert verdict(end).rule is Rule.RUN

    await asyncio.gather(work(fence, "ab" * 20), work(other, "ba" * 20))
    await other.close()
    assert await amounts(fence) == {"a": 60, "b": 60}


async def test_after_a_list_whose_handlers_were_slow_fewer_begin_together(
    fence: SharingFence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_list, "STARTS_WITHIN", 0.2)

    def slow(name: str) -> Body:
        async def body(_: Record | None) -> bytes:
            await fence.first(WRITE, effect=name)
            time.sleep(0.05)  # noqa: ASYNC251  it is slow, and on the processor at that
            return b""

        return body

    async def made(letter: str, body_of: Callable[[str], Body]) -> list[int]:
        """The lengths of the lists in which ten were made."""
        names = [f"{letter}{number}" for number in range(10)]
        ends = await in_one_list(fence, [(of(name), body_of(name)) for name in names], held=f"held-{letter}")
        assert [verdict(end).rule for end in ends] == [Rule.RUN] * 10
        return fence.lists.copy()

    assert await made("a", slow) == [10]
    second = await made("b", slow)
    assert (second[0], second[1] >= 5) == (10, True)  # 5 x 0.05 s is more than it may take: the others came again
    await made("c", lambda name: write(fence, name))
    assert await made("d", lambda name: write(fence, name)) == [10]
    assert await effects(fence) == [f"{letter}{number}" for letter in "abcd" for number in range(10)]
    assert fence.alone == 0
