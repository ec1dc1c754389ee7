"""Plans: all of it, or nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from tcc import wire
from tcc.v1 import manager_pb2, manager_pb2_grpc, transaction_pb2
from tests.spine.bad_requests import branch
from tests.spine.installation import OPENING, Bank, Installation, config, credit, debit, running, transfer
from tests.spine.traffic import Script, Serve, answers, loses_the_reply, never_answers, waits_for

Code = grpc.StatusCode


async def test_all_tries_succeed_and_every_branch_is_confirmed_exactly_once(installation: Installation) -> None:
    bank_a, bank_b = installation.banks
    done = await installation.manager.execute(*transfer(70), name="transfer", wait=tcc.COMPLETED)
    assert done.state is tcc.State.CONFIRMED
    assert done.replies[0].available == OPENING - 70
    assert (bank_a.ann, bank_b.ann) == ((OPENING - 70, 0), (OPENING + 70, 0))
    assert [bank.fence_state(done.gid) for bank in installation.banks] == ["CONFIRMED", "CONFIRMED"]
    assert len(bank_a.traffic.calls("ConfirmDebit")) == 1
    await installation.check()


async def test_one_refuses_and_all_that_were_tried_are_cancelled_and_the_client_sees_code_and_text(
    installation: Installation,
) -> None:
    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await installation.manager.execute(*transfer(OPENING + 1), wait=tcc.COMPLETED)
    (refusal,) = stopped.value.refusals
    assert (refusal.participant, refusal.code()) == ("bank-a", Code.FAILED_PRECONDITION)
    assert refusal.details() == f"account ann has less than {OPENING + 1} cents available"
    assert refusal.marked
    assert installation.bank_a.fence_state(stopped.value.gid) == "REFUSED"
    assert (await installation.ended(stopped.value.gid)).state is tcc.State.CANCELLED
    assert installation.bank_b.fence_state(stopped.value.gid) in ("CANCELLED", "REFUSED", None)
    assert not installation.bank_a.traffic.calls("CancelDebit")  # what refused with the mark holds nothing
    await installation.check()


async def test_a_refusal_of_the_second_branch_gives_back_what_the_first_reserved(installation: Installation) -> None:
    bank_a, bank_b = installation.banks
    reserved = asyncio.Event()

    async def reserves(serve: Serve, context: object) -> bytes:
        reply = await serve()
        reserved.set()
        return reply

    bank_a.traffic.next("TryDebit", reserves)
    bank_b.traffic.next("TryCredit", waits_for(reserved))
    with pytest.raises(tcc.TransactionCancelled, match="there is no account nobody"):
        await installation.manager.execute(debit("bank-a", 70), credit("bank-b", 70, account="nobody"), gid="g-1")
    await installation.ended("g-1")
    assert bank_a.ann == (OPENING, 0)
    assert bank_a.fence_state("g-1") == "CANCELLED"
    await installation.check()


async def test_a_try_that_times_out_is_cancelled_and_its_late_arrival_is_refused_by_the_fence(
    installation: Installation,
) -> None:
    bank_a = installation.bank_a
    bank_a.traffic.always("TryDebit", never_answers)
    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await installation.manager.execute(debit("bank-a", 70, timeout=0.3), credit("bank-b", 70), gid="late")
    assert stopped.value.reason == "DEADLINE"
    assert [(r.participant, r.code(), r.known) for r in stopped.value.refusals] == [
        ("bank-a", Code.DEADLINE_EXCEEDED, False)
    ]
    await installation.ended("late")
    assert bank_a.fence_state("late") == "CANCELLED"

    bank_a.traffic.always("TryDebit", None)
    lost = bank_a.traffic.calls("TryDebit")[0]
    async with grpc.aio.insecure_channel(bank_a.address) as channel:
        again: Any = channel.unary_unary(lost.path)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await again(lost.request, metadata=[pair for pair in lost.metadata if pair[0].startswith("tcc-")])
    assert refused.value.code() is Code.FAILED_PRECONDITION
    trailers = dict(tuple(refused.value.trailing_metadata() or ()))
    assert trailers[wire.REFUSED] == "1"
    info = wire.error_info(bytes(trailers[wire.STATUS_DETAILS]))
    assert info is not None
    assert info.reason == wire.LATE_TRY
    assert bank_a.ann == (OPENING, 0)
    await installation.check()


@pytest.mark.parametrize(
    "then",
    [
        answers(Code.RESOURCE_EXHAUSTED, "too many requests"),
        answers(Code.FAILED_PRECONDITION, "maintenance"),
        answers(Code.PERMISSION_DENIED, "not you"),
        answers(Code.UNAUTHENTICATED, "who are you"),
        answers(Code.UNIMPLEMENTED, "no such method"),
        answers(Code.ABORTED, "try again"),
        answers(Code.CANCELLED, "gone"),
        answers(Code.UNAVAILABLE, "down"),
    ],
    ids=lambda script: script.__closure__[0].cell_contents.name,
)
async def test_a_try_whose_reply_is_lost_and_that_is_then_refused_or_overloaded_leaves_nothing_reserved(
    installation: Installation, then: Script
) -> None:
    bank_a = installation.bank_a
    bank_a.traffic.next("TryDebit", loses_the_reply)
    bank_a.traffic.always("TryDebit", then)
    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await installation.manager.execute(debit("bank-a", 70, timeout=2.0), credit("bank-b", 70))
    await installation.ended(stopped.value.gid)
    assert len(bank_a.traffic.calls("TryDebit")) > 1
    assert bank_a.fence_state(stopped.value.gid) == "CANCELLED"
    assert bank_a.ann == (OPENING, 0)
    await installation.check()


async def test_a_retry_of_try_makes_one_branch(installation: Installation) -> None:
    bank_a = installation.bank_a
    bank_a.traffic.next("TryDebit", loses_the_reply, loses_the_reply)
    done = await installation.manager.execute(*transfer(70), wait=tcc.COMPLETED)
    tries = bank_a.traffic.calls("TryDebit")
    assert [call.entry(wire.ATTEMPT) for call in tries] == ["1", "2", "3"]
    assert len({(call.entry(wire.GID), call.entry(wire.BRANCH), call.request) for call in tries}) == 1
    assert bank_a.ann == (OPENING - 70, 0)
    assert len((await installation.manager.get(done.gid)).branches) == 2
    await installation.check()


async def test_a_repeated_try_is_answered_though_the_money_is_reserved_by_then(installation: Installation) -> None:
    """A balance that is checked before the duplicate would refuse it."""
    installation.bank_a.traffic.next("TryDebit", loses_the_reply)
    done = await installation.manager.execute(*transfer(OPENING), wait=tcc.COMPLETED)
    assert done.state is tcc.State.CONFIRMED
    assert installation.bank_a.ann == (0, 0)
    await installation.check()


async def test_a_confirm_whose_reply_is_lost_is_repeated_and_happens_once(installation: Installation) -> None:
    installation.bank_b.traffic.next("ConfirmCredit", loses_the_reply, loses_the_reply)
    await installation.manager.execute(*transfer(70), wait=tcc.COMPLETED)
    assert len(installation.bank_b.traffic.calls("ConfirmCredit")) == 3
    assert installation.bank_b.ann == (OPENING + 70, 0)
    await installation.check()


async def test_a_confirm_that_fails_is_repeated_and_never_turned_into_a_cancel(installation: Installation) -> None:
    failing = [answers(code, "no") for code in (Code.INTERNAL, Code.FAILED_PRECONDITION, Code.ABORTED, Code.NOT_FOUND)]
    installation.bank_a.traffic.next("ConfirmDebit", *failing)
    done = await installation.manager.execute(*transfer(70), gid="stubborn", wait=tcc.COMPLETED)
    assert done.state is tcc.State.CONFIRMED
    assert not installation.bank_a.traffic.calls("CancelDebit")
    view = await installation.manager.get("stubborn")
    assert view.branches[0].command_failures == 4
    await installation.check()


async def test_one_hung_participant_delays_no_other_transaction(installation: Installation) -> None:
    manager, bank_b = installation.manager, installation.bank_b
    bank_b.traffic.always("ConfirmCredit", never_answers)
    hung = [await manager.execute(*transfer(1)) for _ in range(30)]
    within_a = [(debit("bank-a", 1), credit("bank-a", 1)) for _ in range(30)]
    quick = await asyncio.gather(*(manager.execute(*calls, wait=tcc.COMPLETED) for calls in within_a))
    assert {done.state for done in quick} == {tcc.State.CONFIRMED}
    views = [await manager.get(done.gid) for done in hung]
    assert {view.state for view in views} == {tcc.State.CONFIRMING}
    assert {view.branches[0].outcome for view in views} == {tcc.Outcome.DONE}  # nor the sick one's healthy neighbour
    bank_b.traffic.always("ConfirmCredit", None)
    await bank_b.stop()  # ends the calls that hang
    await bank_b.start()
    await installation.check()


async def test_a_transaction_of_sixty_four_branches_is_confirmed(installation: Installation) -> None:
    calls = [debit("bank-a", 1) for _ in range(32)] + [credit("bank-b", 1) for _ in range(32)]
    done = await installation.manager.execute(*calls, wait=tcc.COMPLETED)
    assert len(done.replies) == 64
    assert (installation.bank_a.ann, installation.bank_b.ann) == ((OPENING - 32, 0), (OPENING + 32, 0))
    await installation.check()


async def test_sixty_four_branches_that_cannot_be_reached_are_told_to_the_client_as_cancelled(
    installation: Installation,
) -> None:
    """What stood in the way must fit into what trailers can carry."""
    await installation.bank_a.stop()
    calls = [debit("bank-a", 1, metadata=(("tcc-step", f"{number:0>64}"),)) for number in range(64)]
    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await installation.manager.execute(*calls, timeout=0.5)
    assert stopped.value.reason == "DEADLINE"
    assert stopped.value.refusals[0].participant == "bank-a"
    await installation.bank_a.start()
    await installation.check()


@pytest.mark.parametrize("text", ["ж" * 900, "x" * 3000, '%"\n' * 300], ids=["cyrillic", "long", "escaped"])
async def test_a_long_refusal_in_any_script_reaches_the_client(installation: Installation, text: str) -> None:
    installation.bank_a.traffic.always("TryDebit", answers(Code.FAILED_PRECONDITION, text))
    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await installation.manager.execute(*transfer(70), timeout=5)
    assert (stopped.value.refusals[0].details() or "")[:200] == text[:200]
    await installation.check()


async def test_a_long_tracestate_does_not_stand_in_the_way_of_a_transaction(installation: Installation) -> None:
    request = manager_pb2.ExecuteRequest(gid="traced")
    branch = request.branches.add(
        participant="bank-a", request=pb.CreditRequest(account="ann", amount=1).SerializeToString()
    )
    branch.methods.try_method, branch.methods.confirm_method, branch.methods.cancel_method = (
        f"/services.accounts.v1.Accounts/{phase}Credit" for phase in ("Try", "Confirm", "Cancel")
    )
    branch.metadata.add(key="x-note", value=b"n" * 3900)
    request.timeout.FromMilliseconds(1500)
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub = manager_pb2_grpc.TransactionManagerStub(channel)
        answer = await stub.Execute(
            request, metadata=(("traceparent", f"00-{'1' * 32}-{'2' * 16}-01"), ("tracestate", "v=" + "t" * 15_000))
        )
    assert answer.transaction.traceparent.startswith("00-1111")
    assert (await installation.ended("traced")).state is tcc.State.CONFIRMED


async def test_a_participant_that_is_no_longer_configured_keeps_its_transaction_open_until_it_is_again(
    tmp_path: Path, banks: tuple[Bank, Bank]
) -> None:
    bank_a, bank_b = banks
    bank_b.traffic.always("ConfirmCredit", answers(Code.UNAVAILABLE, "down"))
    async with running(config(tmp_path, *banks)) as (_, manager):
        await manager.execute(*transfer(70), gid="g-1")
    async with running(config(tmp_path, bank_a)) as (_, manager):
        view = await manager.get("g-1")
        assert view.state is tcc.State.CONFIRMING
        async for view in manager.watch("g-1"):
            if "bank-b is not configured" in view.last_error:
                break
    bank_b.traffic.always("ConfirmCredit", None)
    async with running(config(tmp_path, *banks)) as (app, manager):
        installation = Installation(bank_a, bank_b, manager, app.listen)
        assert (await installation.ended("g-1")).state is tcc.State.CONFIRMED
        await installation.check()


@pytest.mark.parametrize("parent", [b"\xff" * 55, b"00-a\r\nb", b"x" * 20_000], ids=["bytes", "lines", "length"])
async def test_a_trace_context_that_is_none_harms_neither_its_transaction_nor_the_others(
    installation: Installation, parent: bytes
) -> None:
    gids = ("strange", "other")
    items = [
        manager_pb2.ExecuteStreamRequest.Item(
            id=number,
            request=manager_pb2.ExecuteRequest(gid=gid, branches=[branch()], wait=manager_pb2.WAIT_COMPLETED),
            metadata=[transaction_pb2.Metadata(key="traceparent", value=parent)] if gid == "strange" else [],
        )
        for number, gid in enumerate(gids, 1)
    ]
    async with grpc.aio.insecure_channel(installation.address) as channel:
        stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)
        call = stub.ExecuteStream(timeout=20)
        await call.write(manager_pb2.ExecuteStreamRequest(items=items))
        await call.done_writing()
        answers = [answer async for message in call for answer in message.items]
    confirmed = [(answer.error.code, answer.response.transaction.state) for answer in answers]
    assert confirmed == [(0, transaction_pb2.STATE_CONFIRMED)] * 2
    assert all(not answer.response.transaction.traceparent for answer in answers)
    assert installation.bank_a.ann == (OPENING - 2, 0)
