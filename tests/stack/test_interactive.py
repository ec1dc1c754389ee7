"""Interactive transactions whose calls go now to one manager, now to the other, as through a load balancer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tests.stack.books import Asked, Run
from tests.stack.installation import Stack
from tests.stack.load import TOO_MUCH, reserve


class BodyError(Exception):
    """What a client's own code raises."""


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[tcc.Manager]:
    """Each of its calls goes to the other manager than the one before."""
    async with stack.client(0, 1, policy="round_robin") as client:
        for _ in range(4):  # until it is connected to both
            async for _ in client.list(page_size=1):
                break
        yield client


def ask(run: Run, told: tcc.Decision, amount: int = 70) -> tuple[str, Asked]:
    gid = f"{run.name}-0"
    asked = run.asked[gid] = Asked(*run.stack.far, run.accounts[0], amount, told)
    return gid, asked


def try_debit(tx: tcc.Transaction, asked: Asked, amount: int) -> Any:
    bank = AccountsStub(tx.channel.participant(asked.out))
    return bank.TryDebit(pb.DebitRequest(account=asked.account, amount=amount))


async def test_a_clean_exit_confirms(run: Run, client: tcc.Manager) -> None:
    gid, asked = ask(run, tcc.Decision.CONFIRM)
    async with run.audited():
        async with client.transaction("transfer", gid=gid, wait=tcc.COMPLETED) as tx:
            await reserve(tx, asked)
        assert tx.state is tcc.State.CONFIRMED
    await run.check(client)


async def test_each_call_reaches_a_manager_that_did_not_begin_it(stack: Stack, run: Run) -> None:
    """The same by hand, so that it is sure who was asked for what."""
    gid, asked = ask(run, tcc.Decision.CONFIRM)
    async with stack.client(0) as first, stack.client(1) as second:
        async with first.transaction(gid=gid) as tx, second.transaction(gid=gid) as same:
            await try_debit(tx, asked, 70)
            into = AccountsStub(same.channel.participant(asked.into))
            step = (("tcc-step", "1"),)
            await into.TryCredit(pb.CreditRequest(account=asked.account, amount=70), metadata=step)
        await run.check(first)


async def test_an_exception_cancels_and_comes_out_unchanged(run: Run, client: tcc.Manager) -> None:
    gid, asked = ask(run, tcc.Decision.CANCEL)
    thrown = BodyError("mine")

    async def body() -> None:
        async with client.transaction(gid=gid) as tx:
            await reserve(tx, asked)
            raise thrown

    with pytest.raises(BodyError) as caught:
        await body()
    assert caught.value is thrown
    found = await run.check(client)
    assert found[gid].cancel_reason is tcc.CancelReason.CLIENT


async def test_asyncio_cancellation_cancels(run: Run, client: tcc.Manager) -> None:
    gid, asked = ask(run, tcc.Decision.CANCEL)
    reserved = asyncio.Event()

    async def body() -> None:
        async with client.transaction(gid=gid) as tx:
            await reserve(tx, asked)
            reserved.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await reserved.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(6):
            await task
    found = await run.check(client)
    assert found[gid].cancel_reason is tcc.CancelReason.CLIENT


async def test_a_refusal_that_the_body_catches_lets_it_go_on(run: Run, client: tcc.Manager) -> None:
    gid, asked = ask(run, tcc.Decision.CONFIRM)
    async with client.transaction(gid=gid) as tx:
        with pytest.raises(tcc.BranchRefused, match="less than"):
            await try_debit(tx, asked, TOO_MUCH)
        await reserve(tx, asked)
    await run.check(client)
    assert sorted((await run.books("a")).fence.values()) == ["CONFIRMED", "REFUSED"]


async def test_a_client_that_vanishes_is_cancelled_at_the_deadline(stack: Stack, run: Run, client: tcc.Manager) -> None:
    gid, asked = ask(run, tcc.Decision.CANCEL)
    vanished = stack.client(1, 0)
    tx = vanished.transaction(gid=gid, timeout=1.5)
    await tx.__aenter__()
    await try_debit(tx, asked, 70)
    await vanished.close()
    assert (await run.books("a")).accounts[asked.account][1] == 70
    found = await run.check(client)
    assert found[gid].cancel_reason is tcc.CancelReason.DEADLINE


async def test_what_was_decided_at_one_manager_is_decided_at_the_other(stack: Stack, run: Run) -> None:
    gid, asked = ask(run, tcc.Decision.CANCEL)

    async def body(first: tcc.Manager, second: tcc.Manager) -> None:
        async with first.transaction(gid=gid) as tx:
            await reserve(tx, asked)
            await second.cancel(gid, "a person wants it so")

    async with stack.client(0) as first, stack.client(1) as second:
        with pytest.raises(tcc.TransactionCancelled, match="was cancelled"):
            await body(first, second)
        found = await run.check(first)
    assert "cancel: a person wants it so" in [entry.reason for entry in found[gid].history]
