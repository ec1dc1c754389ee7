"""What a client sees who asks another manager than the one that works on its transaction, and what each does."""

from __future__ import annotations

import asyncio

import pytest

from tcc.v1 import transaction_pb2
from tcc_server.core.model import Decision, State, Transaction
from tcc_server.engine.engine import is_decided, is_final
from tcc_server.engine.errors import AlreadyDecided, GidInUse, Unsettled
from tests.replicas.installation import KEY, NO_TRACE, PLAN, Installation, Replica, ask

CONFIRMED = {("debit", "try"): 1, ("credit", "try"): 1, ("debit", "confirm"): 1, ("credit", "confirm"): 1}


def execute(replica: Replica) -> asyncio.Task[Transaction]:
    return asyncio.create_task(replica.engine.execute(KEY, "", PLAN, 30.0, NO_TRACE))


async def test_a_repeated_execute_at_another_replica_waits_for_the_one_that_works_on_it(
    a: Replica, b: Replica, installation: Installation
) -> None:
    a.gate.shut()
    first = execute(a)
    await a.gate.until_waiting(2)
    second = execute(b)
    with pytest.raises(GidInUse):
        await b.engine.execute(KEY, "", PLAN[:1], 30.0, NO_TRACE)
    assert await installation.owner() == "a"
    a.gate.open()

    assert {(await first).decision, (await second).decision} == {Decision.CONFIRM}
    assert (await b.engine.wait(KEY, is_final)).state is State.CONFIRMED
    assert (b.tries, b.commands) == ([], [])
    assert installation.effects() == CONFIRMED


async def test_executes_at_both_at_the_same_moment_are_one_transaction(
    a: Replica, b: Replica, installation: Installation
) -> None:
    answers = await asyncio.gather(*(execute(replica) for replica in (a, b) * 5))
    assert {answer.decision for answer in answers} == {Decision.CONFIRM}
    await b.engine.wait(KEY, is_final)
    assert installation.effects() == CONFIRMED


async def test_reading_at_another_replica_takes_nothing_over(
    a: Replica, b: Replica, installation: Installation
) -> None:
    await a.engine.begin(KEY, "", 30.0, NO_TRACE)
    await a.engine.enlist(KEY, PLAN[0])
    seen: list[State] = []

    async def watch() -> None:
        seen.extend([tx.state async for tx in b.engine.watch(KEY, 0)])

    watching = asyncio.create_task(watch())
    waiting = asyncio.create_task(b.engine.wait(KEY, is_decided))
    assert (await b.engine.get(KEY)).state is State.TRYING
    assert await installation.owner() == "a"

    await a.engine.confirm(KEY)
    assert (await waiting).decision is Decision.CONFIRM
    await watching
    assert seen[-1] is State.CONFIRMED
    assert (b.tries, b.commands) == ([], [])


async def test_a_confirm_at_another_replica_takes_over_and_the_old_one_knows_it(
    a: Replica, b: Replica, installation: Installation
) -> None:
    await a.engine.begin(KEY, "", 30.0, NO_TRACE)
    for one in PLAN:
        await a.engine.enlist(KEY, one)
    assert (await b.engine.confirm(KEY)).decision is Decision.CONFIRM
    assert (await a.engine.get(KEY)).decision is Decision.CONFIRM
    assert (await a.engine.confirm(KEY)).decision is Decision.CONFIRM
    with pytest.raises(AlreadyDecided):
        await a.engine.cancel(KEY, "too late")
    assert (await a.engine.wait(KEY, is_final)).state is State.CONFIRMED
    assert installation.effects() == CONFIRMED
    assert a.engine.open_transactions == 0


async def test_branches_that_enlist_now_here_now_there_are_all_confirmed_once(
    a: Replica, b: Replica, installation: Installation
) -> None:
    await a.engine.begin(KEY, "", 30.0, NO_TRACE)
    steps = [str(number) for number in range(6)]
    for step in steps:
        tx, _ = await (a if int(step) % 2 else b).engine.enlist(KEY, ask(step, "x", 1))
    assert len(tx.branches) == 6
    await a.engine.confirm(KEY)
    await b.engine.wait(KEY, is_final)
    assert installation.effects() == {(step, phase): 1 for step in steps for phase in ("try", "confirm")}


async def test_a_cancel_at_another_replica_beats_a_try_in_flight(
    a: Replica, b: Replica, installation: Installation
) -> None:
    await a.engine.begin(KEY, "", 30.0, NO_TRACE)
    await a.engine.enlist(KEY, PLAN[0])
    a.gate.shut()
    enlisting = asyncio.create_task(a.engine.enlist(KEY, PLAN[1]))
    await a.gate.until_waiting(2)
    assert (await b.engine.cancel(KEY, "why not")).decision is Decision.CANCEL
    assert (await b.engine.wait(KEY, is_final)).state is State.CANCELLED
    a.gate.open()
    confirmed = asyncio.create_task(a.engine.confirm(KEY))
    assert (await confirmed).decision is Decision.CANCEL
    await asyncio.wait({enlisting}, timeout=20)
    assert enlisting.done()
    assert not [phase for _, phase in installation.effects() if phase == "confirm"]
    assert not any(bank.reserved for bank in installation.banks.values())


async def test_what_a_dead_replica_left_is_finished_by_another_without_anybody_asking(
    a: Replica, b: Replica, installation: Installation
) -> None:
    a.gate.shut()
    first = execute(a)
    await a.gate.until_waiting(2)
    second = execute(b)
    await installation.pause(a)

    assert (await second).decision is Decision.CONFIRM
    assert (await b.engine.wait(KEY, is_final)).state is State.CONFIRMED
    assert sorted(b.tries) == ["credit", "debit"]
    await a.log.lapsed()
    await a.engine.abandon()
    with pytest.raises(Unsettled, match="lost its lease"):
        await first
    assert installation.effects() == CONFIRMED


async def test_an_owner_that_comes_back_after_its_lease_cannot_speak_for_the_past(
    a: Replica, b: Replica, installation: Installation
) -> None:
    await a.engine.begin(KEY, "", 30.0, NO_TRACE)
    for one in PLAN:
        await a.engine.enlist(KEY, one)
    await installation.pause(a)
    assert (await b.engine.cancel(KEY, "the client gave up")).decision is Decision.CANCEL
    late = asyncio.create_task(a.engine.confirm(KEY))  # it has all branches reserved, and does not know better
    assert (await b.engine.wait(KEY, is_final)).state is State.CANCELLED
    await a.log.lapsed()
    await a.engine.abandon()
    ended = (await asyncio.gather(late, return_exceptions=True))[0]
    assert isinstance(ended, Unsettled) or (isinstance(ended, Transaction) and ended.decision is Decision.CANCEL)
    assert {phase for _, phase in a.commands} <= {transaction_pb2.PHASE_CANCEL}
    assert not [phase for _, phase in installation.effects() if phase == "confirm"]


async def test_a_replica_that_closes_hands_over_what_it_had_open(
    a: Replica, b: Replica, installation: Installation
) -> None:
    a.gate.shut()
    first = execute(a)
    await a.gate.until_waiting(2)
    await a.engine.close()
    await a.log.close()
    await asyncio.gather(first, return_exceptions=True)
    async with asyncio.timeout(10):
        assert (await b.engine.wait(KEY, is_final)).state is State.CONFIRMED
    assert installation.effects() == CONFIRMED
