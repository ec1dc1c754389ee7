"""The same call again: one transaction, the same answer. Another one under its id: an error that says what differs."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

import tcc
from tcc import wire
from tests.spine.bad_requests import branch, execute
from tests.spine.installation import OPENING, Installation, credit, debit, transfer
from tests.spine.traffic import never_answers, waits_for


async def test_the_same_execute_twice_concurrently_and_after_the_end_is_one_transaction_with_one_answer(
    installation: Installation,
) -> None:
    manager, bank_a = installation.manager, installation.bank_a
    go = asyncio.Event()
    bank_a.traffic.next("TryDebit", waits_for(go))
    plans = [transfer(70) for _ in range(20)]
    answers = [asyncio.create_task(manager.execute(*plan, gid="t-1")) for plan in plans]
    await bank_a.traffic.until("TryDebit")
    go.set()
    first, *others = await asyncio.gather(*answers)
    assert {other.replies[0].reservation_id for other in others} == {first.replies[0].reservation_id}
    await installation.ended("t-1")
    late = await manager.execute(*plans[0], gid="t-1", wait=tcc.COMPLETED)
    assert late.replies == first.replies
    assert late.state is tcc.State.CONFIRMED
    assert len(bank_a.traffic.calls("TryDebit")) == 1
    assert bank_a.ann == (OPENING - 70, 0)
    await installation.check()


async def test_a_repeated_execute_of_a_cancelled_transaction_is_cancelled_with_the_same_words(
    installation: Installation,
) -> None:
    plan = transfer(OPENING + 1)
    said = []
    for _ in range(2):
        with pytest.raises(tcc.TransactionCancelled) as stopped:
            await installation.manager.execute(*plan, gid="t-1", wait=tcc.COMPLETED)
        refusal = stopped.value.refusals[0]
        said.append((str(stopped.value), refusal.code(), refusal.details(), refusal.marked))
    assert said[0] == said[1]
    assert len(installation.bank_a.traffic.calls("TryDebit")) == 1


async def test_an_execute_repeated_while_confirming_does_not_make_it_confirmed(installation: Installation) -> None:
    """A success that is marked with no Confirm carried out."""
    manager, bank_b = installation.manager, installation.bank_b
    bank_b.traffic.always("ConfirmCredit", never_answers)
    plan = transfer(70)
    await manager.execute(*plan, gid="t-1")
    again = await manager.execute(*plan, gid="t-1")
    assert again.state is tcc.State.CONFIRMING
    assert bank_b.fence_state("t-1") == "TRIED"
    assert (await manager.get("t-1")).finished_at is None
    bank_b.traffic.always("ConfirmCredit", None)
    await bank_b.stop()
    await bank_b.start()
    assert (await installation.ended("t-1")).state is tcc.State.CONFIRMED
    await installation.check()


@pytest.mark.parametrize(
    ("other", "name", "difference"),
    [
        (lambda: transfer(71), "", "branch 0: step '0' has another request"),
        (lambda: (debit("bank-a", 70),), "", "it has 2 branches, this call has 1"),
        (
            lambda: (debit("bank-a", 70), credit("bank-a", 70)),
            "",
            "its participant is 'bank-b', this call says 'bank-a'",
        ),
        (lambda: (debit("bank-a", 70), debit("bank-b", 70)), "", "TryCredit, this call says /services"),
        (lambda: transfer(70), "refund", "its name is '', this call says 'refund'"),
        (
            lambda: (debit("bank-a", 70, metadata=(("tcc-step", "out"),)), credit("bank-b", 70)),
            "",
            "its step is '0', this call says 'out'",
        ),
    ],
    ids=["request", "count", "participant", "method", "name", "step"],
)
async def test_the_same_gid_with_another_plan_already_exists_and_it_says_what_differs(
    installation: Installation, other: Any, name: str, difference: str
) -> None:
    await installation.manager.execute(*transfer(70), gid="t-1", wait=tcc.COMPLETED)
    with pytest.raises(tcc.GidReused) as reused:
        await installation.manager.execute(*other(), gid="t-1", name=name)
    assert difference in str(reused.value)
    assert installation.bank_a.ann == (OPENING - 70, 0)
    await installation.check()


async def test_other_languages_hear_of_another_plan_by_the_status_and_its_details(installation: Installation) -> None:
    await installation.manager.execute(*transfer(70), gid="t-1")
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await execute(branch(), gid="t-1")(installation)
    assert reused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    details = dict(tuple(reused.value.trailing_metadata() or ()))[wire.STATUS_DETAILS]
    assert isinstance(details, bytes)
    info = wire.error_info(details)
    assert info is not None
    assert (info.reason, info.metadata["difference"]) == (wire.GID_REUSED, "it has 2 branches, this call has 1")


async def test_the_same_gid_for_a_plan_and_an_interactive_transaction_is_refused_either_way(
    installation: Installation,
) -> None:
    manager = installation.manager
    await manager.execute(*transfer(1), gid="plan")
    with pytest.raises(tcc.GidReused, match="it is a plan"):
        async with manager.transaction(gid="plan"):
            raise AssertionError
    async with manager.transaction(gid="talk"):
        with pytest.raises(tcc.GidReused, match="it is an interactive transaction"):
            await manager.execute(*transfer(1), gid="talk")
    await installation.check()


async def test_gids_that_are_prefixes_of_each_other_do_not_touch(installation: Installation) -> None:
    manager, bank_a = installation.manager, installation.bank_a
    bank_a.traffic.next("TryDebit", never_answers)
    open_one = asyncio.create_task(manager.execute(*transfer(5), gid="order-10"))
    await bank_a.traffic.until("TryDebit")
    await manager.execute(*transfer(7), gid="order-1", wait=tcc.COMPLETED)
    with pytest.raises(tcc.TransactionCancelled):
        await manager.execute(*transfer(OPENING * 2), gid="order-", wait=tcc.COMPLETED)
    await manager.execute(*transfer(11), gid="order-100", wait=tcc.COMPLETED)
    await manager.cancel("order-10")
    with pytest.raises(tcc.TransactionCancelled):
        await open_one
    assert (await installation.ended("order-10")).state is tcc.State.CANCELLED
    assert (await manager.get("order-1")).state is tcc.State.CONFIRMED
    assert [tx.gid async for tx in manager.list(gids=["order-1"])] == ["order-1"]
    assert bank_a.ann == (OPENING - 18, 0)
    await installation.check()


async def test_a_client_that_gives_up_stops_only_its_own_waiting(installation: Installation) -> None:
    go = asyncio.Event()
    installation.bank_a.traffic.next("TryDebit", waits_for(go))
    call = asyncio.create_task(installation.manager.execute(*transfer(70), gid="t-1"))
    await installation.bank_a.traffic.until("TryDebit")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    go.set()
    assert (await installation.ended("t-1")).state is tcc.State.CONFIRMED
    await installation.check()
