"""`Manager.transaction`: a clean exit confirms, an exception cancels, and what is not known is never confirmed."""

from __future__ import annotations

import asyncio
import logging

import grpc
import grpc.aio
import pytest

import tcc
from services.accounts.v1.accounts_pb2 import DebitRequest, GetAccountRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tcc import wire
from tcc.client import _interactive
from tcc.v1 import manager_pb2, transaction_pb2
from tests.client.conftest import CREDIT, DEBIT
from tests.client.fake_manager import (
    REFUSAL,
    FakeManager,
    after,
    cancelled,
    fails,
    in_state,
    loses_the_reply,
    never_answers,
    refuses,
    reuse,
)

Code = grpc.StatusCode


class BodyError(Exception):
    """What the test's body raises."""


async def test_a_clean_exit_confirms_what_was_reserved(manager: tcc.Manager, fake: FakeManager) -> None:
    async with manager.transaction("transfer", gid="t-1", timeout=20.0, wait=tcc.COMPLETED) as tx:
        bank = AccountsStub(tx.channel)
        reply = await bank.TryDebit(DEBIT)
        await bank.TryCredit(type(CREDIT)(account="b", amount=30, reference=reply.reservation_id))
        before = tx.state
    assert (before, tx.state) == (tcc.State.TRYING, tcc.State.CONFIRMING)
    assert fake.methods() == ["Begin", "Try", "Try", "Confirm"]
    begin = manager_pb2.BeginRequest(gid="t-1", name="transfer")
    begin.timeout.seconds = 20
    assert fake.requests("Begin") == [begin]
    assert fake.requests("Confirm") == [manager_pb2.ConfirmRequest(gid="t-1", wait=manager_pb2.WAIT_COMPLETED)]
    debit, credit = (request.branch for request in fake.requests("Try"))
    assert (debit.step, credit.step) == ("0", "1")
    assert credit.request == type(CREDIT)(account="b", amount=30, reference="held").SerializeToString()
    assert debit.methods.cancel_method.endswith("/CancelDebit")


async def test_steps_participants_and_timeouts_are_the_calls_own(manager: tcc.Manager, fake: FakeManager) -> None:
    async with manager.transaction() as tx:
        bank = AccountsStub(tx.channel.participant("bank-b"))
        await bank.TryDebit(DEBIT, timeout=1.5, metadata=(("tcc-step", "debit"), ("tenant", "x")))
    (request,) = fake.requests("Try")
    assert (request.branch.step, request.branch.participant) == ("debit", "bank-b")
    assert request.branch.try_timeout.ToMilliseconds() == 1500
    assert [(pair.key, pair.value) for pair in request.branch.metadata] == [("tenant", b"x")]
    assert fake.asked[1].time_left < 2.0


async def test_an_exception_cancels_and_comes_out_unchanged(manager: tcc.Manager, fake: FakeManager) -> None:
    error = BodyError()

    async def body() -> None:
        async with manager.transaction(gid="t-1") as tx:
            await AccountsStub(tx.channel).TryDebit(DEBIT)
            raise error

    with pytest.raises(BodyError) as raised:
        await body()
    assert raised.value is error
    assert (error.__cause__, error.__context__) == (None, None)
    assert fake.methods() == ["Begin", "Try", "Cancel"]
    assert fake.requests("Cancel")[0].reason == "BodyError in the client"


async def test_a_cancel_that_fails_is_logged_and_the_exception_still_comes_out(
    manager: tcc.Manager, fake: FakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    fake.next("Cancel", fails(Code.INVALID_ARGUMENT, "no"))
    with caplog.at_level(logging.WARNING, "tcc.client"), pytest.raises(BodyError):
        async with manager.transaction(gid="t-1"):
            raise BodyError
    assert "t-1" in caplog.text


async def test_cancelling_the_task_sends_a_cancel_before_it_ends(manager: tcc.Manager, fake: FakeManager) -> None:
    inside = asyncio.Event()

    async def body() -> None:
        async with manager.transaction() as tx:
            await AccountsStub(tx.channel).TryDebit(DEBIT)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.methods() == ["Begin", "Try", "Cancel"]


async def test_cancelling_the_task_once_more_does_not_stop_the_cancel(manager: tcc.Manager, fake: FakeManager) -> None:
    inside, go = asyncio.Event(), asyncio.Event()
    fake.next("Cancel", after(go, fake.cancel))

    async def body() -> None:
        async with manager.transaction(gid="t-1"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await inside.wait()
    task.cancel()
    await fake.arrived("Cancel")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await manager.close()
    assert fake.transactions["t-1"].state == transaction_pb2.STATE_CANCELLING


async def test_the_cancel_of_a_cancelled_task_is_bounded(
    manager: tcc.Manager, fake: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_interactive, "CANCEL_TIMEOUT", 0.1)
    fake.next("Cancel", never_answers())
    with pytest.raises(BodyError):
        async with asyncio.timeout(5), manager.transaction():
            raise BodyError


async def test_a_refusal_is_an_rpc_error_of_the_participant(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Try", refuses(Code.NOT_FOUND, "no account a"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async with manager.transaction(gid="t-1") as tx:
            await AccountsStub(tx.channel.participant("bank-a")).TryDebit(DEBIT)
    refused = raised.value
    assert isinstance(refused, tcc.BranchRefused)
    assert (refused.code(), refused.details()) == (Code.NOT_FOUND, "no account a")
    assert refused.trailing_metadata()["till"] == "shut"
    assert (refused.gid, refused.step, refused.participant) == ("t-1", "0", "bank-a")
    assert refused.method.endswith("/TryDebit")
    assert (refused.known, refused.marked) == (True, True)
    assert fake.methods() == ["Begin", "Try", "Cancel"]


async def test_a_refusal_that_the_body_catches_lets_it_go_on(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Try", refuses(Code.FAILED_PRECONDITION, "insufficient funds"))
    async with manager.transaction() as tx:
        bank = AccountsStub(tx.channel)
        with pytest.raises(tcc.BranchRefused):
            await bank.TryDebit(DEBIT)
        await bank.TryDebit(DebitRequest(account="savings", amount=30))
    assert fake.methods() == ["Begin", "Try", "Try", "Confirm"]
    assert [request.branch.step for request in fake.requests("Try")] == ["0", "1"]


async def test_a_participant_that_did_not_answer_is_told_from_one_that_refused(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Try", refuses(Code.UNAVAILABLE, "bank is down", result="unknown", marked=False))
    with pytest.raises(tcc.BranchRefused, match="did not answer") as raised:
        async with manager.transaction() as tx:
            await AccountsStub(tx.channel).TryDebit(DEBIT)
    assert (raised.value.known, raised.value.marked) == (False, False)
    assert fake.methods() == ["Begin", "Try", "Cancel"]


async def test_a_lost_try_is_sent_again_as_the_same_branch(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Try", fails(Code.UNAVAILABLE), loses_the_reply(fake.reserve))
    async with manager.transaction(gid="t-1") as tx:
        assert (await AccountsStub(tx.channel).TryDebit(DEBIT)).available == 70
    requests = fake.requests("Try")
    assert len(requests) == 3
    assert all(request == requests[0] for request in requests)
    assert len(fake.transactions["t-1"].branches) == 1


async def test_a_refusal_by_the_manager_itself_is_no_refusal_by_the_participant(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Try", fails(Code.INVALID_ARGUMENT, "no participant bank-z", "UNKNOWN_PARTICIPANT"))
    async with manager.transaction() as tx:
        with pytest.raises(tcc.ManagerError, match="bank-z"):
            await AccountsStub(tx.channel).TryDebit(DEBIT)
    assert fake.methods() == ["Begin", "Try", "Confirm"]


async def test_a_try_after_the_deadline_says_that_the_transaction_was_cancelled(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Try", cancelled(reason=transaction_pb2.CANCEL_REASON_DEADLINE))
    with pytest.raises(tcc.TransactionCancelled) as stopped:
        async with manager.transaction() as tx:
            await AccountsStub(tx.channel).TryDebit(DEBIT)
    assert stopped.value.reason == "DEADLINE"
    assert fake.methods() == ["Begin", "Try"]


async def test_a_branch_whose_fate_the_client_does_not_know_is_never_confirmed(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Try", never_answers())
    silent: list[tcc.BranchRefused] = []

    async def body() -> None:
        async with manager.transaction() as tx:
            bank = AccountsStub(tx.channel)
            try:
                await bank.TryDebit(DEBIT, timeout=0.1)
            except tcc.BranchRefused as refused:
                silent.append(refused)
            await bank.TryCredit(CREDIT)

    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await body()
    assert not silent[0].known
    assert stopped.value.refusals == tuple(silent)
    assert fake.methods() == ["Begin", "Try", "Try", "Cancel"]


async def test_a_try_that_the_body_gave_up_is_never_confirmed(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Try", never_answers())

    async def body() -> None:
        async with manager.transaction() as tx:
            call = AccountsStub(tx.channel).TryDebit(DEBIT)
            await fake.arrived("Try")
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert call.cancelled()

    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await body()
    assert stopped.value.refusals[0].code() is Code.CANCELLED
    assert fake.methods() == ["Begin", "Try", "Cancel"]


async def test_a_step_that_is_tried_again_and_answered_is_no_longer_in_doubt(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Try", never_answers())
    async with manager.transaction() as tx:
        bank = AccountsStub(tx.channel)
        step = (("tcc-step", "debit"),)
        with pytest.raises(tcc.BranchRefused):
            await bank.TryDebit(DEBIT, timeout=0.1, metadata=step)
        await bank.TryDebit(DEBIT, metadata=step)
    assert fake.methods() == ["Begin", "Try", "Try", "Confirm"]


async def test_tries_run_side_by_side_and_are_waited_for_at_the_exit(manager: tcc.Manager, fake: FakeManager) -> None:
    go = asyncio.Event()
    fake.next("Try", after(go, fake.reserve), after(go, fake.reserve))
    async with asyncio.TaskGroup() as group:

        async def body() -> None:
            async with manager.transaction() as tx:
                bank = AccountsStub(tx.channel)
                bank.TryDebit(DEBIT)
                bank.TryCredit(CREDIT)

        group.create_task(body())
        await fake.arrived("Try", 2)
        assert "Confirm" not in fake.methods()
        go.set()
    assert fake.methods()[-1] == "Confirm"


async def test_a_refusal_that_nobody_awaited_cancels_and_is_raised(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Try", refuses(Code.NOT_FOUND, "no account a"))
    with pytest.raises(tcc.BranchRefused, match="no account a"):
        async with manager.transaction() as tx:
            AccountsStub(tx.channel).TryDebit(DEBIT)
    assert fake.methods() == ["Begin", "Try", "Cancel"]


async def test_an_exception_does_not_wait_for_tries_under_way(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Try", never_answers())

    async def body() -> None:
        async with manager.transaction() as tx:
            AccountsStub(tx.channel).TryDebit(DEBIT)
            await fake.arrived("Try")
            raise BodyError

    with pytest.raises(BodyError):
        await body()
    assert fake.methods() == ["Begin", "Try", "Cancel"]


async def test_a_task_cancelled_while_it_waits_for_tries_at_the_exit_sends_a_cancel(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Try", never_answers())

    async def body() -> None:
        async with manager.transaction() as tx:
            AccountsStub(tx.channel).TryDebit(DEBIT)

    task = asyncio.create_task(body())
    await fake.arrived("Try")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.methods() == ["Begin", "Try", "Cancel"]


async def test_gather_over_tries_works_as_over_any_call(manager: tcc.Manager) -> None:
    async with manager.transaction() as tx:
        bank = AccountsStub(tx.channel)
        debit, credit = await asyncio.gather(bank.TryDebit(DEBIT), bank.TryCredit(CREDIT))
    assert (debit.reservation_id, credit.reservation_id) == ("held", "announced")


async def test_a_call_behaves_like_a_grpc_call(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Try", fake.reserve, refuses(Code.NOT_FOUND, "no account a"))
    done: list[object] = []
    async with manager.transaction() as tx:
        bank = AccountsStub(tx.channel)
        good, bad = bank.TryDebit(DEBIT, timeout=5.0), None
        good.add_done_callback(done.append)
        await good.wait_for_connection()
        remaining = good.time_remaining()
        assert remaining is not None
        assert 0 < remaining <= 5.0
        assert await good.code() is Code.OK
        assert await good.details() == ""
        assert (await good.trailing_metadata())["till"] == "closed"
        assert len(await good.initial_metadata()) == 0
        assert (await good).available == (await good).available == 70
        assert (good.done(), good.cancelled(), good.cancel()) == (True, False, False)
        bad = bank.TryDebit(DEBIT)
        assert await bad.code() is Code.NOT_FOUND
        assert await bad.details() == "no account a"
        assert (await bad.trailing_metadata())[wire.REFUSED] == "1"
        assert bad.time_remaining() is None
    assert done == [good]


async def test_a_lost_confirm_is_asked_again_and_never_cancelled(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Confirm", loses_the_reply(fake.confirm))
    async with manager.transaction():
        pass
    assert fake.methods() == ["Begin", "Confirm", "Confirm"]


async def test_a_confirm_without_an_answer_is_unknown_and_settled_by_gid(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Confirm", never_answers())
    with pytest.raises(tcc.OutcomeUnknown) as unknown:
        async with manager.transaction(timeout=0.1):
            pass
    view = await manager.confirm(unknown.value.gid)
    assert view.state is tcc.State.CONFIRMING
    assert fake.methods() == ["Begin", "Confirm", "Confirm"]


async def test_a_task_cancelled_while_it_confirms_sends_no_cancel(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Confirm", never_answers())

    async def body() -> None:
        async with manager.transaction():
            pass

    task = asyncio.create_task(body())
    await fake.arrived("Confirm")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await manager.close()
    assert fake.methods() == ["Begin", "Confirm"]


async def test_a_confirm_that_is_decided_cancel_raises_with_the_refusals(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Confirm", cancelled(REFUSAL))
    with pytest.raises(tcc.TransactionCancelled, match="insufficient funds"):
        async with manager.transaction():
            pass
    assert fake.methods() == ["Begin", "Confirm"]


async def test_a_mixed_end_is_raised(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Confirm", *[in_state(transaction_pb2.STATE_MIXED, manager_pb2.ConfirmResponse)] * 2)
    with pytest.raises(tcc.TransactionMixed):
        async with manager.transaction(gid="t-1"):
            pass
    with pytest.raises(tcc.TransactionMixed):
        await manager.confirm("t-1")


async def test_cancelling_inside_the_block_makes_the_exit_do_nothing_more(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    async with manager.transaction() as tx:
        bank = AccountsStub(tx.channel)
        await bank.TryDebit(DEBIT)
        await tx.cancel("changed my mind")
        with pytest.raises(tcc.UsageError, match="was cancelled"):
            bank.TryDebit(DEBIT)
    assert fake.methods() == ["Begin", "Try", "Cancel"]
    assert fake.requests("Cancel")[0].reason == "changed my mind"
    assert tx.state is tcc.State.CANCELLING


async def test_a_cancel_inside_the_block_without_an_answer_is_never_followed_by_a_confirm(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Cancel", never_answers())
    async with manager.transaction(timeout=0.1) as tx:
        with pytest.raises(tcc.OutcomeUnknown):
            await tx.cancel()
    assert fake.methods() == ["Begin", "Cancel"]


async def test_the_channel_works_only_inside_the_block(manager: tcc.Manager) -> None:
    tx = manager.transaction()
    bank = AccountsStub(tx.channel)
    with pytest.raises(tcc.UsageError, match="has not begun"):
        bank.TryDebit(DEBIT)
    async with tx:
        with pytest.raises(tcc.UsageError, match="no Try"):
            bank.GetAccount(GetAccountRequest(account="a"))
    with pytest.raises(tcc.UsageError, match="is over"):
        bank.TryDebit(DEBIT)
    with pytest.raises(tcc.UsageError, match="entered already"):
        await tx.__aenter__()


async def test_a_position_that_is_taken_by_a_named_step_is_refused(manager: tcc.Manager) -> None:
    async with manager.transaction() as tx:
        bank = AccountsStub(tx.channel)
        await bank.TryDebit(DEBIT, metadata=(("tcc-step", "1"),))
        with pytest.raises(tcc.UsageError, match="position, 1"):
            bank.TryCredit(CREDIT)


async def test_a_lost_begin_is_asked_again(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Begin", loses_the_reply(fake.begin))
    async with manager.transaction():
        pass
    assert fake.requests("Begin")[0] == fake.requests("Begin")[1]


async def test_a_begin_without_an_answer_has_reserved_nothing(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Begin", never_answers())
    with pytest.raises(tcc.ManagerUnavailable, match="cancelled at its deadline"):
        async with manager.transaction(timeout=0.1):
            raise AssertionError
    assert fake.methods() == ["Begin"]


async def test_a_gid_of_another_transaction_is_refused_at_the_door(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Begin", reuse("it is a plan"))
    with pytest.raises(tcc.GidReused, match="it is a plan"):
        async with manager.transaction(gid="t-1"):
            raise AssertionError


async def test_a_gid_that_was_cancelled_is_refused_at_the_door(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Begin", in_state(transaction_pb2.STATE_CANCELLED, manager_pb2.BeginResponse))
    with pytest.raises(tcc.TransactionCancelled):
        async with manager.transaction(gid="t-1"):
            raise AssertionError
