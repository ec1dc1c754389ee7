"""`Manager.execute`: what each of the manager's answers, and the lack of one, becomes for the caller."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import tcc
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tcc import wire
from tcc.v1 import manager_pb2, transaction_pb2
from tcc.v1.manager_pb2_grpc import add_TransactionManagerServicer_to_server
from tests.client.conftest import CREDIT, DEBIT, Served
from tests.client.fake_manager import (
    REFUSAL,
    FakeManager,
    after,
    cancelled,
    fails,
    in_state,
    loses_the_reply,
    never_answers,
    reuse,
)

Code = grpc.StatusCode
LOST = [Code.UNAVAILABLE, Code.UNKNOWN, Code.INTERNAL, Code.DATA_LOSS, Code.CANCELLED, Code.ABORTED]


async def transfer(manager: tcc.Manager, gid: str | None = "t-1", timeout: float = 30.0) -> tuple[str, str]:
    bank = AccountsStub(tcc.plan)
    done = await manager.execute(bank.TryDebit(DEBIT), bank.TryCredit(CREDIT), gid=gid, timeout=timeout)
    debit, credit = done.replies
    return debit.reservation_id, credit.reservation_id


def same_content(fake: FakeManager) -> bool:
    return len({request.SerializeToString(deterministic=True) for request in fake.requests("Execute")}) == 1


async def test_replies_come_typed_and_in_the_order_of_the_calls(manager: tcc.Manager) -> None:
    bank = AccountsStub(tcc.plan)
    done = await manager.execute(bank.TryCredit(CREDIT), bank.TryDebit(DEBIT), gid="t-1")
    credit, debit = done.replies
    assert (credit.reservation_id, debit.available) == ("announced", 70)
    assert (done.gid, done.state) == ("t-1", tcc.State.CONFIRMING)
    assert [branch.step for branch in done.branches] == ["0", "1"]


async def test_the_whole_plan_arrives_in_one_call(manager: tcc.Manager, fake: FakeManager) -> None:
    await manager.execute(
        AccountsStub(tcc.plan.participant("bank-a")).TryDebit(
            DEBIT, timeout=1.5, metadata=(("tcc-step", "debit"), ("tenant", "x"))
        ),
        name="transfer",
        gid="t-1",
        timeout=20.0,
        wait=tcc.COMPLETED,
    )
    (request,) = fake.requests("Execute")
    expected = manager_pb2.ExecuteRequest(gid="t-1", name="transfer", wait=manager_pb2.WAIT_COMPLETED)
    expected.timeout.seconds = 20
    branch = expected.branches.add(step="debit", participant="bank-a", request=DEBIT.SerializeToString())
    branch.methods.try_method = "/services.accounts.v1.Accounts/TryDebit"
    branch.methods.confirm_method = "/services.accounts.v1.Accounts/ConfirmDebit"
    branch.methods.cancel_method = "/services.accounts.v1.Accounts/CancelDebit"
    branch.try_timeout.FromMilliseconds(1500)
    branch.metadata.add(key="tenant", value=b"x")
    assert request == expected
    assert 20.0 < fake.asked[0].time_left <= 20.5


async def test_a_gid_is_made_where_none_is_given(manager: tcc.Manager, fake: FakeManager) -> None:
    await transfer(manager, gid=None)
    await transfer(manager, gid=None)
    first, second = (request.gid for request in fake.requests("Execute"))
    assert first != second
    assert len(first) >= 22


@pytest.mark.parametrize("code", LOST, ids=lambda code: code.name)
async def test_an_answer_that_tells_nothing_is_asked_for_again_with_the_same_gid_and_content(
    manager: tcc.Manager, fake: FakeManager, code: Code
) -> None:
    fake.next("Execute", fails(code), fails(code))
    assert await transfer(manager, gid=None) == ("held", "announced")
    assert len(fake.requests("Execute")) == 3
    assert same_content(fake)


async def test_a_lost_reply_of_a_confirmed_transaction_is_had_by_asking_again(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Execute", loses_the_reply(fake.execute))
    assert await transfer(manager) == ("held", "announced")
    assert fake.methods() == ["Execute", "Execute"]


async def test_no_answer_until_the_time_is_over_is_unknown_and_never_cancelled(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Execute", fails(Code.UNAVAILABLE), never_answers())
    with pytest.raises(tcc.OutcomeUnknown) as unknown:
        await transfer(manager, timeout=0.2)
    assert unknown.value.gid == "t-1"
    assert isinstance(unknown.value.__cause__, grpc.aio.AioRpcError)
    assert set(fake.methods()) == {"Execute"}


async def test_an_unknown_outcome_is_settled_by_the_same_calls_and_gid(manager: tcc.Manager, fake: FakeManager) -> None:
    bank = AccountsStub(tcc.plan)
    calls = bank.TryDebit(DEBIT), bank.TryCredit(CREDIT)
    fake.next("Execute", never_answers())
    with pytest.raises(tcc.OutcomeUnknown) as unknown:
        await manager.execute(*calls, timeout=0.1)
    done = await manager.execute(*calls, timeout=0.1, gid=unknown.value.gid)
    assert done.replies[0].reservation_id == "held"
    assert same_content(fake)


async def test_a_refusal_after_a_lost_reply_leaves_the_outcome_unknown(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Execute", loses_the_reply(fake.execute), fails(Code.UNAUTHENTICATED, "token expired"))
    with pytest.raises(tcc.OutcomeUnknown, match="token expired"):
        await transfer(manager)


async def test_a_verdict_after_a_lost_reply_is_final(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Execute", fails(Code.UNAVAILABLE), cancelled(REFUSAL))
    with pytest.raises(tcc.TransactionCancelled):
        await transfer(manager)


async def test_a_cancelled_transaction_carries_the_refusers_code_and_text(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Execute", cancelled(REFUSAL))
    with pytest.raises(tcc.TransactionCancelled, match="insufficient funds") as stopped:
        await transfer(manager)
    (refusal,) = stopped.value.refusals
    assert (stopped.value.gid, stopped.value.reason) == ("t-1", "REFUSED")
    assert (refusal.code(), refusal.details()) == (Code.FAILED_PRECONDITION, "insufficient funds")
    assert (refusal.step, refusal.participant, refusal.known, refusal.marked) == ("debit", "bank-a", True, True)
    assert refusal.trailing_metadata()[wire.STATUS_DETAILS] == b"\x08\x09"
    assert fake.methods() == ["Execute"]


async def test_a_branch_that_never_answered_is_told_from_a_refusal(manager: tcc.Manager, fake: FakeManager) -> None:
    silent = transaction_pb2.Refusal(
        step="1", status=transaction_pb2.CallStatus(code=4), result=transaction_pb2.TRY_RESULT_UNKNOWN
    )
    fake.next("Execute", cancelled(silent, reason=transaction_pb2.CANCEL_REASON_DEADLINE))
    with pytest.raises(tcc.TransactionCancelled) as stopped:
        await transfer(manager)
    assert stopped.value.reason == tcc.CancelReason.DEADLINE
    assert not stopped.value.refusals[0].known


async def test_a_reused_gid_says_what_differs(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Execute", reuse("branch 1 goes to bank-c"))
    with pytest.raises(tcc.GidReused) as reused:
        await transfer(manager)
    assert (reused.value.gid, reused.value.difference) == ("t-1", "branch 1 goes to bank-c")


async def test_a_mixed_transaction_is_never_returned_as_done(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next(
        "Execute",
        in_state(transaction_pb2.STATE_MIXED, manager_pb2.ExecuteResponse),
        fails(Code.DATA_LOSS, "bank-a contradicts", wire.MIXED),
    )
    for _ in range(2):
        with pytest.raises(tcc.TransactionMixed):
            await transfer(manager)


@pytest.mark.parametrize(
    "code",
    [Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED],
    ids=lambda code: code.name,
)
async def test_a_refused_plan_comes_with_code_reason_and_text_and_is_not_repeated(
    manager: tcc.Manager, fake: FakeManager, code: Code
) -> None:
    fake.next("Execute", fails(code, "no participant bank-z: name a configured one", "UNKNOWN_PARTICIPANT"))
    with pytest.raises(tcc.ManagerError, match="bank-z: name a configured one") as refused:
        await transfer(manager)
    assert (refused.value.code, refused.value.reason) == (code, "UNKNOWN_PARTICIPANT")
    assert fake.methods() == ["Execute"]


async def test_a_manager_without_room_is_asked_again(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Execute", fails(Code.RESOURCE_EXHAUSTED, "too many open", "OVERLOADED"))
    assert await transfer(manager) == ("held", "announced")


async def test_a_manager_that_has_no_room_all_the_time_has_begun_nothing(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Execute", *[fails(Code.RESOURCE_EXHAUSTED, "too many open", "OVERLOADED")] * 100)
    with pytest.raises(tcc.ManagerUnavailable, match="too many open"):
        await transfer(manager, timeout=0.1)


async def test_without_a_connection_nothing_was_sent_and_that_is_said(tmp_path: Path) -> None:
    async with tcc.Manager(f"unix:{tmp_path}/nobody", connect_timeout=0.2) as manager:
        with pytest.raises(tcc.ManagerUnavailable, match="nothing was sent"):
            await transfer(manager)


async def test_a_manager_that_starts_a_little_late_is_waited_for(tmp_path: Path) -> None:
    target = f"unix:{tmp_path}/manager"
    server = grpc.aio.server()
    add_TransactionManagerServicer_to_server(FakeManager(), server)
    async with tcc.Manager(target) as manager, asyncio.TaskGroup() as group:
        waiting = group.create_task(transfer(manager))
        await asyncio.wait([waiting], timeout=0.05)
        server.add_insecure_port(target)
        await server.start()
        assert await waiting == ("held", "announced")
    await server.stop(None)


async def test_a_manager_that_goes_away_and_comes_back_is_asked_again(tmp_path: Path) -> None:
    target = f"unix:{tmp_path}/manager"
    fake = FakeManager()
    fake.next("Execute", never_answers())

    def serve() -> grpc.aio.Server:
        server = grpc.aio.server()
        add_TransactionManagerServicer_to_server(fake, server)
        server.add_insecure_port(target)
        return server

    first, second = serve(), None
    await first.start()
    async with tcc.Manager(target) as manager, asyncio.TaskGroup() as group:
        waiting = group.create_task(transfer(manager))
        await fake.arrived("Execute")
        await first.stop(None)
        second = serve()
        await second.start()
        assert await waiting == ("held", "announced")
    assert same_content(fake)
    await second.stop(None)


async def test_cancelling_the_caller_only_stops_the_waiting(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Execute", never_answers())
    waiting = asyncio.create_task(transfer(manager))
    await fake.arrived("Execute")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert fake.methods() == ["Execute"]


async def test_closing_the_manager_leaves_what_is_under_way_unknown(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Execute", never_answers())
    waiting = asyncio.create_task(transfer(manager))
    await fake.arrived("Execute")
    await manager.close()
    with pytest.raises(tcc.OutcomeUnknown, match="closed"):
        await waiting


async def test_a_closed_manager_says_so(manager: tcc.Manager) -> None:
    await manager.close()
    await manager.close()
    with pytest.raises(tcc.UsageError, match="closed"):
        await transfer(manager)


async def test_a_channel_of_the_callers_is_used_and_left_open(served: Served) -> None:
    async with grpc.aio.insecure_channel(served.address) as channel:
        async with tcc.Manager(channel=channel) as manager:
            assert await transfer(manager) == ("held", "announced")
        assert channel.get_state() is grpc.ChannelConnectivity.READY


async def test_an_address_or_a_channel_is_needed() -> None:
    with pytest.raises(tcc.UsageError, match="either"):
        tcc.Manager()


async def test_replies_that_are_no_longer_kept_are_no_failure_of_the_transaction(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Execute", in_state(transaction_pb2.STATE_CONFIRMED, manager_pb2.ExecuteResponse))
    done = await manager.execute(AccountsStub(tcc.plan).TryDebit(DEBIT))
    assert done.state is tcc.State.CONFIRMED
    with pytest.raises(tcc.ManagerError, match="no longer kept"):
        _ = done.replies


async def test_the_trace_of_the_caller_goes_with_the_call_and_its_repeats(
    manager: tcc.Manager, fake: FakeManager
) -> None:
    fake.next("Execute", fails(Code.UNAVAILABLE))
    with TracerProvider().get_tracer("test").start_as_current_span("caller") as span:
        await transfer(manager)
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    assert [str(asked.metadata["traceparent"])[3:35] for asked in fake.asked] == [trace_id, trace_id]


async def test_many_at_once_share_the_connection(manager: tcc.Manager, fake: FakeManager) -> None:
    go = asyncio.Event()
    fake.next("Execute", *[after(go, fake.execute)] * 50)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(transfer(manager, gid=f"t-{number}")) for number in range(50)]
        await fake.arrived("Execute", 50)
        go.set()
    assert {task.result() for task in tasks} == {("held", "announced")}
