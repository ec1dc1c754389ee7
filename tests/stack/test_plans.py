"""Plans on the whole stack, by two managers: all of it or nothing, once, whoever is asked."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest

import tcc
from tcc import wire
from tests.rabbitmq.broker import depth
from tests.rabbitmq.ends import until
from tests.spine.installation import credit, debit
from tests.spine.traffic import Script, answers, loses_the_reply, never_answers
from tests.stack.books import Asked, Run
from tests.stack.conftest import OPENING, Near
from tests.stack.installation import Stack
from tests.stack.load import TOO_MUCH, planned, reserve

Code = grpc.StatusCode
Clients = tuple[tcc.Manager, tcc.Manager]


def ask(run: Run, gid: str, amount: int = 70, *, near: bool = False, told: tcc.Decision | None = None) -> Asked:
    """A transfer that the run's checks know of."""
    out, into = run.stack.near if near else run.stack.far
    asked = run.asked[f"{run.name}-{gid}"] = Asked(out, into, run.accounts[0], amount, told)
    return asked


def _credit(asked: Asked) -> Any:
    return credit(asked.into, asked.amount, account=asked.account)


async def state_at(run: Run, bank: str, gid: str) -> str | None:
    """The fence's state of a run's transaction at a bank."""
    states = [state for (found, _), state in (await run.books(bank)).fence.items() if found == f"{run.name}-{gid}"]
    assert len(states) <= 1
    return states[0] if states else None


async def test_all_tries_succeed_and_every_branch_is_confirmed_exactly_once(run: Run, clients: Clients) -> None:
    for number, client in enumerate(clients):
        asked = ask(run, f"{number}", told=tcc.Decision.CONFIRM)
        done = await client.execute(*planned(asked), gid=f"{run.name}-{number}", wait=tcc.COMPLETED)
        assert done.state is tcc.State.CONFIRMED
        assert done.replies[0].available == OPENING - 70 * (number + 1)
        assert [await state_at(run, bank, f"{number}") for bank in ("a", "b")] == ["CONFIRMED", "CONFIRMED"]
    await run.check(clients[0])


async def test_one_refuses_and_the_others_are_cancelled_and_the_client_hears_code_and_text(
    run: Run, clients: Clients
) -> None:
    asked = ask(run, "0", TOO_MUCH, told=tcc.Decision.CANCEL)
    said = []
    for client in clients:  # the second asks again, at the other manager
        with pytest.raises(tcc.TransactionCancelled) as stopped:
            await client.execute(*planned(asked), gid=f"{run.name}-0", wait=tcc.COMPLETED)
        (refusal,) = stopped.value.refusals
        said.append((refusal.participant, refusal.code(), refusal.details(), refusal.marked))
    text = f"account {asked.account} has less than {TOO_MUCH} cents available"
    assert said == [(run.stack.far[0], Code.FAILED_PRECONDITION, text, True)] * 2
    assert await state_at(run, "a", "0") == "REFUSED"
    await run.check(clients[0])


async def test_a_try_that_times_out_is_cancelled_and_its_late_arrival_is_refused(
    run: Run, clients: Clients, near: Near
) -> None:
    bank = near[0]
    bank.traffic.always("TryDebit", never_answers)
    asked = ask(run, "0", near=True, told=tcc.Decision.CANCEL)
    calls = debit(asked.out, 70, account=asked.account, timeout=0.3), _credit(asked)
    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await clients[0].execute(*calls, gid=f"{run.name}-0")
    assert [(one.code(), one.known) for one in stopped.value.refusals] == [(Code.DEADLINE_EXCEEDED, False)]
    await clients[0].wait(f"{run.name}-0")
    assert await state_at(run, "a", "0") == "CANCELLED"

    bank.traffic.always("TryDebit", None)
    lost = bank.traffic.calls("TryDebit")[0]
    async with grpc.aio.insecure_channel(bank.address) as channel:
        again: Any = channel.unary_unary(lost.path)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await again(lost.request, metadata=[pair for pair in lost.metadata if pair[0].startswith("tcc-")])
    assert late.value.code() is Code.FAILED_PRECONDITION
    info = wire.error_info(dict(tuple(late.value.trailing_metadata() or ()))[wire.STATUS_DETAILS])
    assert info is not None
    assert info.reason == wire.LATE_TRY
    await run.check(clients[0])


@pytest.mark.parametrize(
    "then",
    [answers(Code.FAILED_PRECONDITION, "maintenance"), answers(Code.RESOURCE_EXHAUSTED, "too many requests")],
    ids=["refused", "overloaded"],
)
async def test_a_try_whose_reply_is_lost_and_that_is_then_refused_or_overloaded_leaves_nothing_reserved(
    run: Run, clients: Clients, near: Near, then: Script
) -> None:
    bank = near[0]
    bank.traffic.next("TryDebit", loses_the_reply)
    bank.traffic.always("TryDebit", then)
    asked = ask(run, "0", near=True, told=tcc.Decision.CANCEL)
    calls = debit(asked.out, 70, account=asked.account, timeout=1.0), _credit(asked)
    async with run.audited():
        with pytest.raises(tcc.TransactionCancelled):
            await clients[0].execute(*calls, gid=f"{run.name}-0")
        await clients[0].wait(f"{run.name}-0")
    assert len(bank.traffic.calls("TryDebit")) > 1
    assert await state_at(run, "a", "0") == "CANCELLED"
    await run.check(clients[0])


async def test_commands_wait_in_rabbitmq_while_their_participant_is_down(
    stack: Stack, run: Run, clients: Clients
) -> None:
    asked = ask(run, "0", told=tcc.Decision.CONFIRM)
    async with clients[0].transaction(gid=f"{run.name}-0") as tx:
        await reserve(tx, asked)
        await stack.bank_b.killed()
    assert (await clients[0].get(f"{run.name}-0")).state is tcc.State.CONFIRMING
    assert await state_at(run, "b", "0") == "TRIED"
    await until(partial(_waits, stack.servers.rabbitmq, stack.far[1]))
    await stack.bank_b.started()  # and nobody does anything else
    found = await run.check(clients[0])
    assert {view.state for view in found.values()} == {tcc.State.CONFIRMED}


async def _waits(rabbitmq: str, participant: str) -> bool:
    return await depth(rabbitmq, participant) > 0


async def test_the_same_gid_at_both_managers_at_once_and_afterwards_is_one_transaction_with_one_answer(
    run: Run, clients: Clients
) -> None:
    asked = ask(run, "0", told=tcc.Decision.CONFIRM)
    gid = f"{run.name}-0"
    told = await asyncio.gather(*(client.execute(*planned(asked), gid=gid) for client in clients * 10))
    await clients[0].wait(gid)
    told += [await client.execute(*planned(asked), gid=gid, wait=tcc.COMPLETED) for client in clients]
    assert {done.replies[0].SerializeToString() for done in told} == {told[0].replies[0].SerializeToString()}
    assert [done.state for done in told[-2:]] == [tcc.State.CONFIRMED] * 2
    await run.check(clients[0])


async def test_another_plan_under_the_same_gid_already_exists_at_both_managers(run: Run, clients: Clients) -> None:
    asked = ask(run, "0", told=tcc.Decision.CONFIRM)
    gid = f"{run.name}-0"
    others = {
        "step '0' has another request": (debit(asked.out, 71, account=asked.account), _credit(asked)),
        "it has 2 branches, this call has 1": (debit(asked.out, 70, account=asked.account),),
    }

    async def differs() -> None:
        for client in clients:
            for difference, plan in others.items():
                with pytest.raises(tcc.GidReused, match=difference):
                    await client.execute(*plan, gid=gid)
            with pytest.raises(tcc.GidReused, match="it is a plan"):
                async with client.transaction(gid=gid):
                    raise AssertionError

    await clients[0].execute(*planned(asked), gid=gid)
    await differs()  # it may be under way
    await clients[0].wait(gid)
    await differs()
    await run.check(clients[1])


async def test_gids_that_are_prefixes_of_each_other_do_not_touch(run: Run, clients: Clients) -> None:
    amounts = {"1": 5, "10": TOO_MUCH, "100": 7}

    async def one(client: tcc.Manager, gid: str, amount: int) -> None:
        asked = ask(run, gid, amount, told=tcc.Decision.CANCEL if amount == TOO_MUCH else tcc.Decision.CONFIRM)
        try:
            await client.execute(*planned(asked), gid=f"{run.name}-{gid}")
        except tcc.TransactionCancelled:
            assert amount == TOO_MUCH

    await asyncio.gather(*(one(client, gid, amount) for gid, amount in amounts.items() for client in clients))
    found = await run.check(clients[0])
    assert [view.state for view in found.values()] == [tcc.State.CONFIRMED, tcc.State.CANCELLED, tcc.State.CONFIRMED]
