"""`@tcc.batchable`: calls that come together share a transaction, and nothing else about them changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import Column, MetaData, String, Table, insert, select

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from tcc import wire
from tcc.fence import FenceUnavailable, MemoryFence, Phase, SqlFence
from tcc.fence._rows import Changes
from tcc.fence._sqlite import SqliteRows
from tcc.lock import Busy, Held
from tests.participant.desk import Batchable, CountingFence
from tests.participant.scripted import PATHS, REPLY, Branch, Direct, Scripted, is_marked, make_server

EFFECTS = Table("effects", MetaData(), Column("name", String, primary_key=True))


class CountingLock:
    """Always free; keeps what is held, and the most that was held at a time."""

    def __init__(self) -> None:
        self.held = 0
        self.most = 0

    async def acquire(self, key: str, ttl: float) -> Held | Busy:
        self.held += 1
        self.most = max(self.most, self.held)
        return self

    async def release(self) -> None:
        self.held -= 1

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def scripted() -> Batchable:
    return Batchable()


@pytest.fixture
async def sql(tmp_path: Path) -> AsyncIterator[CountingFence]:
    fence = CountingFence(f"sqlite+aiosqlite:///{tmp_path}/service.db")
    await fence.create_tables()
    async with fence.begin() as connection:
        await connection.run_sync(EFFECTS.metadata.create_all)
    yield fence
    await fence.close()


@pytest.fixture
def way(scripted: Batchable, sql: CountingFence) -> Direct:
    return Direct(make_server(scripted, sql))


def branches(number: int) -> list[Branch]:
    return [Branch(gid=f"g-{count}") for count in range(number)]


async def effects(fence: SqlFence) -> list[str]:
    async with fence.engine.connect() as connection:
        return sorted(await connection.scalars(select(EFFECTS.c.name)))


def writes_its_gid(fence: SqlFence) -> Any:
    async def script(request: object, context: object) -> pb.DebitReply:
        gid = tcc.branch().gid
        await fence.session.execute(insert(EFFECTS).values(name=gid))
        assert tcc.branch().gid == gid
        return pb.DebitReply(reservation_id=gid)

    return script


async def test_calls_that_come_together_share_a_transaction_and_each_gets_its_own_answer(
    way: Direct, scripted: Batchable, sql: CountingFence
) -> None:
    scripted.scripts[Phase.TRY] = writes_its_gid(sql)
    answers = await asyncio.gather(*(way.attempt(branch) for branch in branches(20)))

    assert [pb.DebitReply.FromString(answer.reply).reservation_id for answer in answers] == [
        branch.gid for branch in branches(20)
    ]
    assert sql.lists == [20]
    assert len(await effects(sql)) == 20


async def test_commands_share_one_too_and_confirms_and_cancels_mix_with_tries(
    way: Direct, scripted: Batchable, sql: CountingFence
) -> None:
    tried = branches(10)
    for branch in tried:
        await way.attempt(branch)
    sql.lists.clear()
    phases = (Phase.CONFIRM, Phase.CANCEL)
    trying = asyncio.create_task(way.attempt(Branch(gid="new")))
    told = await asyncio.gather(*(way.settle(branch, phases[place % 2]) for place, branch in enumerate(tried)))

    assert (await trying).code is grpc.StatusCode.OK
    assert {one.kind for one in told} == {"DONE"}
    assert sql.lists == [11]
    assert (scripted.runs[Phase.CONFIRM], scripted.runs[Phase.CANCEL]) == (5, 5)


async def test_what_one_handler_ends_with_is_its_own_affair(
    way: Direct, scripted: Batchable, sql: CountingFence
) -> None:
    writes = writes_its_gid(sql)

    async def script(request: object, context: Any) -> Any:
        reply = await writes(request, context)
        match tcc.branch().gid:
            case "g-2":
                raise tcc.Refused("no money")
            case "g-4":
                await context.abort(grpc.StatusCode.NOT_FOUND, "no account")
            case "g-6":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            case "g-8":
                raise ValueError("bug")
            case "g-9":
                await sql.session.rollback()
        return reply

    scripted.scripts[Phase.TRY] = script
    answers = await asyncio.gather(*(way.attempt(branch) for branch in branches(12)))

    codes = {place: answer.code.name for place, answer in enumerate(answers) if answer.code is not grpc.StatusCode.OK}
    assert codes == {2: "FAILED_PRECONDITION", 4: "NOT_FOUND", 6: "UNAVAILABLE", 8: "INTERNAL", 9: "INTERNAL"}
    assert [place for place, answer in enumerate(answers) if is_marked(answer)] == [2, 4]
    assert "raise tcc.Refused instead of session.rollback()" in answers[9].message
    assert sql.lists == [12]
    assert await effects(sql) == sorted(f"g-{place}" for place in range(12) if place not in codes)


async def test_a_handlers_time_is_its_own(way: Direct, scripted: Batchable, sql: CountingFence) -> None:
    async def script(request: object, context: Any) -> pb.DebitReply:
        await sql.session.execute(insert(EFFECTS).values(name=tcc.branch().gid))
        if tcc.branch().gid == "g-2":
            await asyncio.Event().wait()
        return REPLY

    scripted.scripts[Phase.TRY] = script
    answers = await asyncio.gather(
        *(way.attempt(branch, timeout=0.1 if branch.gid == "g-2" else None) for branch in branches(5))
    )

    codes = [answer.code.name for answer in answers]
    assert codes == ["OK", "OK", "DEADLINE_EXCEEDED", "OK", "OK"]
    assert await effects(sql) == ["g-0", "g-1", "g-3", "g-4"]


async def test_a_handler_that_runs_again_since_its_list_failed_starts_afresh(
    way: Direct, scripted: Batchable, sql: CountingFence, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = SqliteRows.commit
    told: list[str] = []

    async def fail_once(self: SqliteRows, changes: Changes) -> None:
        monkeypatch.setattr(SqliteRows, "commit", commit)
        raise FenceUnavailable("the commit's result is unknown")

    async def script(request: object, context: Any) -> pb.DebitReply:
        gid = tcc.branch().gid
        context.add_done_callback(lambda _: told.append(gid))
        if gid == "g-1":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no account")
        if gid == "g-2" and scripted.runs[Phase.TRY] <= 4:
            context.set_code(grpc.StatusCode.INTERNAL)
        if gid == "g-3" and scripted.runs[Phase.TRY] <= 4:
            context.set_trailing_metadata(((wire.EXPIRES_IN, "1"),))
        return REPLY

    scripted.scripts[Phase.TRY] = script
    monkeypatch.setattr(SqliteRows, "commit", fail_once)
    answers = await asyncio.gather(*(way.attempt(branch) for branch in branches(4)))

    assert [answer.code.name for answer in answers] == ["OK", "NOT_FOUND", "OK", "OK"]
    assert answers[3].trailers == ()
    assert scripted.runs[Phase.TRY] == 8
    assert sorted(told) == ["g-0", "g-0", "g-1", "g-1", "g-2", "g-2", "g-3", "g-3"]


async def test_a_repeated_try_says_what_is_left_of_its_reservation(way: Direct, scripted: Batchable) -> None:
    async def script(request: object, context: Any) -> pb.DebitReply:
        context.set_trailing_metadata(((wire.EXPIRES_IN, "60000"),))
        return REPLY

    scripted.scripts[Phase.TRY] = script
    for number in (1, 2):
        for answer in await asyncio.gather(*(way.attempt(branch, attempt=number) for branch in branches(5))):
            assert 0 < int(str(dict(answer.trailers)[wire.EXPIRES_IN])) <= 60000


async def test_each_delivery_holds_its_own_lock_before_and_while_it_shares(
    scripted: Batchable, sql: CountingFence
) -> None:
    lock = CountingLock()
    way = Direct(make_server(scripted, sql, lock=lock))
    await asyncio.gather(*(way.attempt(branch) for branch in branches(10)))
    assert (sql.lists, lock.most, lock.held) == ([10], 10, 0)


async def test_methods_that_are_not_marked_have_transactions_of_their_own(sql: CountingFence) -> None:
    class Overridden(Batchable):
        async def TryDebit(self, request: pb.DebitRequest, context: Any) -> pb.DebitReply:
            return REPLY

    for service in (Scripted(), Overridden()):
        way = Direct(make_server(service, sql))
        await asyncio.gather(*(way.attempt(branch) for branch in branches(5)))
    assert sql.lists == []


async def test_a_fence_that_cannot_share_is_visited_one_by_one(scripted: Batchable) -> None:
    fence = MemoryFence()
    way = Direct(make_server(scripted, fence))
    answers = await asyncio.gather(*(way.attempt(branch) for branch in branches(5)))

    assert [answer.code for answer in answers] == [grpc.StatusCode.OK] * 5
    assert scripted.runs[Phase.TRY] == 5


def test_the_mark_is_read_when_the_service_is_registered(scripted: Batchable) -> None:
    server = make_server(scripted)
    bound = {phase: server.runtime.method(path) for phase, path in PATHS.items()}
    credit = server.runtime.method("/services.accounts.v1.Accounts/TryCredit")
    assert all(method is not None and method.batchable for method in bound.values())
    assert credit is not None
    assert not credit.batchable


def test_marking_what_is_no_coroutine_function_is_refused() -> None:
    def try_debit(request: object, context: object) -> object:
        return REPLY

    with pytest.raises(tcc.UsageError, match=r"try_debit is not `async def`"):
        tcc.batchable(try_debit)  # type: ignore[type-var]  # what the type checker says too
