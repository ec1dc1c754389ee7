"""Interactive transactions, end to end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import grpc.aio
import pytest

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tcc import wire
from tcc.v1 import manager_pb2, manager_pb2_grpc, transaction_pb2
from tests.spine.installation import OPENING, Installation, transfer
from tests.spine.traffic import loses_the_reply, never_answers, waits_for

DEBIT = pb.DebitRequest(account="ann", amount=70)
CREDIT = pb.CreditRequest(account="ann", amount=70)


def bank(tx: tcc.Transaction, name: str) -> Any:
    return AccountsStub(tx.channel.participant(name))


class BodyError(Exception):
    """What a client's own code raises."""


async def test_a_clean_exit_confirms(installation: Installation) -> None:
    async with installation.manager.transaction("transfer", gid="t-1", wait=tcc.COMPLETED) as tx:
        reply = await bank(tx, "bank-a").TryDebit(DEBIT)
        assert installation.bank_a.ann == (OPENING - 70, 70)
        await bank(tx, "bank-b").TryCredit(CREDIT)
    assert tx.state is tcc.State.CONFIRMED
    assert reply.reservation_id == "t-1/0"
    assert [bank.ann for bank in installation.banks] == [(OPENING - 70, 0), (OPENING + 70, 0)]
    await installation.check()


async def test_an_exception_cancels_and_comes_out_unchanged(installation: Installation) -> None:
    thrown = BodyError("mine")

    async def body() -> None:
        async with installation.manager.transaction(gid="t-1") as tx:
            await bank(tx, "bank-a").TryDebit(DEBIT)
            raise thrown

    with pytest.raises(BodyError) as caught:
        await body()
    assert caught.value is thrown
    assert (await installation.ended("t-1")).state is tcc.State.CANCELLED
    assert installation.bank_a.ann == (OPENING, 0)
    await installation.check()


async def test_asyncio_cancellation_cancels_in_a_bounded_time(installation: Installation) -> None:
    reserved = asyncio.Event()

    async def body() -> None:
        async with installation.manager.transaction(gid="t-1") as tx:
            await bank(tx, "bank-a").TryDebit(DEBIT)
            reserved.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await reserved.wait()
    task.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 5
    view = await installation.ended("t-1")
    assert (view.state, view.cancel_reason) == (tcc.State.CANCELLED, tcc.CancelReason.CLIENT)
    await installation.check()


async def test_a_task_cancelled_during_a_try_gives_back_what_the_try_reserves(installation: Installation) -> None:
    go = asyncio.Event()
    installation.bank_a.traffic.next("TryDebit", waits_for(go))

    async def body() -> None:
        async with installation.manager.transaction(gid="t-1") as tx:
            await bank(tx, "bank-a").TryDebit(DEBIT)

    task = asyncio.create_task(body())
    await installation.bank_a.traffic.until("TryDebit")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert (await installation.ended("t-1")).state is tcc.State.CANCELLED
    await installation.check()


async def test_a_refusal_that_the_body_catches_lets_it_go_on(installation: Installation) -> None:
    async with installation.manager.transaction(gid="t-1", wait=tcc.COMPLETED) as tx:
        with pytest.raises(grpc.aio.AioRpcError, match="less than") as refused:
            await bank(tx, "bank-a").TryDebit(pb.DebitRequest(account="ann", amount=OPENING * 2))
        assert isinstance(refused.value, tcc.BranchRefused)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        await bank(tx, "bank-a").TryDebit(DEBIT)
        await bank(tx, "bank-b").TryCredit(CREDIT)
    assert tx.state is tcc.State.CONFIRMED
    assert installation.bank_a.books.fence == {("t-1", "0"): "REFUSED", ("t-1", "1"): "CONFIRMED"}
    await installation.check()


async def test_a_refusal_that_nobody_catches_cancels(installation: Installation) -> None:
    async def body() -> None:
        async with installation.manager.transaction(gid="t-1") as tx:
            await bank(tx, "bank-b").TryCredit(CREDIT)
            await bank(tx, "bank-a").TryDebit(pb.DebitRequest(account="ann", amount=OPENING * 2))

    with pytest.raises(tcc.BranchRefused, match="less than"):
        await body()
    assert (await installation.ended("t-1")).state is tcc.State.CANCELLED
    await installation.check()


async def test_a_try_that_stayed_unknown_cannot_be_confirmed_though_the_body_went_on(
    installation: Installation,
) -> None:
    installation.bank_a.traffic.always("TryDebit", never_answers)

    async def body() -> None:
        async with installation.manager.transaction(gid="t-1") as tx:
            await bank(tx, "bank-b").TryCredit(CREDIT)
            with pytest.raises(tcc.BranchRefused) as unknown:
                await bank(tx, "bank-a").TryDebit(DEBIT, timeout=0.2)
            assert not unknown.value.known

    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await body()
    assert [refusal.participant for refusal in stopped.value.refusals] == ["bank-a"]
    assert (await installation.ended("t-1")).state is tcc.State.CANCELLED
    await installation.check()


async def test_a_client_that_vanishes_is_cancelled_at_the_deadline(installation: Installation) -> None:
    vanished = tcc.Manager(installation.address)
    tx = vanished.transaction(gid="t-1", timeout=0.5)
    await tx.__aenter__()
    await bank(tx, "bank-a").TryDebit(DEBIT)
    await vanished.close()
    assert installation.bank_a.ann == (OPENING - 70, 70)
    view = await installation.ended("t-1")
    assert (view.state, view.cancel_reason) == (tcc.State.CANCELLED, tcc.CancelReason.DEADLINE)
    assert installation.bank_a.ann == (OPENING, 0)
    await installation.check()


async def test_a_confirm_after_the_deadline_tells_that_it_was_cancelled(installation: Installation) -> None:
    async def body() -> None:
        async with installation.manager.transaction(gid="t-1", timeout=0.4) as tx:
            await bank(tx, "bank-a").TryDebit(DEBIT)
            await installation.ended("t-1")

    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await body()
    assert stopped.value.reason == "DEADLINE"
    await installation.check()


async def test_a_confirm_waits_for_tries_in_flight(installation: Installation) -> None:
    """With the plain stub, as other languages do it; the SDK waits for its own Tries."""
    go = asyncio.Event()
    installation.bank_a.traffic.next("TryDebit", waits_for(go))
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)
        await stub.Begin(manager_pb2.BeginRequest(gid="t-1"))
        await stub.Try(_try("t-1", "in", "bank-b", "Credit", CREDIT))
        trying = asyncio.ensure_future(stub.Try(_try("t-1", "out", "bank-a", "Debit", DEBIT)))
        await installation.bank_a.traffic.until("TryDebit")
        confirming = asyncio.ensure_future(stub.Confirm(manager_pb2.ConfirmRequest(gid="t-1")))
        await stub.Get(manager_pb2.GetRequest(gid="t-1"))
        assert not confirming.done()
        go.set()
        assert (await trying).reply
        assert (await confirming).transaction.decision == transaction_pb2.DECISION_CONFIRM
    await installation.check()


async def test_a_repeated_try_of_a_branch_is_the_same_branch(installation: Installation) -> None:
    """A repeated registration is no conflict."""
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)
        await stub.Begin(manager_pb2.BeginRequest(gid="t-1"))
        await stub.Begin(manager_pb2.BeginRequest(gid="t-1"))
        request = _try("t-1", "out", "bank-a", "Debit", DEBIT)
        first, second = await asyncio.gather(stub.Try(request), stub.Try(request))
        third = await stub.Try(request)
        assert first == second == third
        view = await installation.manager.get("t-1")
        assert [branch.step for branch in view.branches] == ["out"]
        await stub.Cancel(manager_pb2.CancelRequest(gid="t-1"))
        again = await stub.Cancel(manager_pb2.CancelRequest(gid="t-1"))
        assert again.transaction.decision
    await installation.check()


@pytest.mark.parametrize(
    ("decide", "code", "says"),
    [
        ("Cancel", grpc.StatusCode.ABORTED, "transaction t-1 was cancelled"),
        ("Confirm", grpc.StatusCode.FAILED_PRECONDITION, "no branch can join any more"),
    ],
)
async def test_a_branch_cannot_join_after_the_decision(
    installation: Installation, decide: str, code: grpc.StatusCode, says: str
) -> None:
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)
        await stub.Begin(manager_pb2.BeginRequest(gid="t-1"))
        if decide == "Cancel":
            await stub.Cancel(manager_pb2.CancelRequest(gid="t-1"))
        else:
            await stub.Confirm(manager_pb2.ConfirmRequest(gid="t-1"))
        with pytest.raises(grpc.aio.AioRpcError, match=says) as late:
            await stub.Try(_try("t-1", "out", "bank-a", "Debit", DEBIT))
        assert late.value.code() is code
        assert wire.TRY_RESULT not in dict(tuple(late.value.trailing_metadata() or ()))
    assert not installation.bank_a.traffic.calls("TryDebit")
    assert installation.bank_a.books.fence == {}


async def test_a_try_whose_reply_is_lost_is_the_same_try_again(installation: Installation) -> None:
    installation.bank_a.traffic.next("TryDebit", loses_the_reply)
    async with installation.manager.transaction(gid="t-1", wait=tcc.COMPLETED) as tx:
        await bank(tx, "bank-a").TryDebit(DEBIT)
        await bank(tx, "bank-b").TryCredit(CREDIT)
    assert installation.bank_a.ann == (OPENING - 70, 0)
    await installation.check()


async def test_interactive_and_planned_transactions_side_by_side_keep_the_books(installation: Installation) -> None:
    manager = installation.manager

    async def talk(number: int) -> None:
        async with manager.transaction(gid=f"talk-{number}") as tx:
            await bank(tx, "bank-a").TryDebit(pb.DebitRequest(account="ann", amount=1))
            await bank(tx, "bank-b").TryCredit(pb.CreditRequest(account="ann", amount=1))

    await asyncio.gather(*(talk(n) for n in range(10)), *(manager.execute(*transfer(1)) for _ in range(10)))
    await installation.check()
    assert [bank.ann for bank in installation.banks] == [(OPENING - 20, 0), (OPENING + 20, 0)]


def _try(gid: str, step: str, participant: str, action: str, request: Any) -> manager_pb2.TryRequest:
    asked = manager_pb2.TryRequest(gid=gid)
    asked.branch.step, asked.branch.participant = step, participant
    asked.branch.request = request.SerializeToString()
    service = "/services.accounts.v1.Accounts"
    asked.branch.methods.try_method = f"{service}/Try{action}"
    asked.branch.methods.confirm_method = f"{service}/Confirm{action}"
    asked.branch.methods.cancel_method = f"{service}/Cancel{action}"
    return asked
