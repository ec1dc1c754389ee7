"""`tcc.plan`: calling a Try names a branch and sends nothing; everything else says why it cannot be."""

from __future__ import annotations

import asyncio
import gc
import warnings

import grpc
import grpc.aio
import pytest

import tcc
from services.accounts.v1.accounts_pb2 import Account, GetAccountRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tcc.client._plan import PlannedCall
from tests.client.conftest import CREDIT, DEBIT
from tests.client.fake_manager import FakeManager

SERVICE = "services.accounts.v1.Accounts"


def planned(call: object) -> PlannedCall[object, object]:
    assert isinstance(call, PlannedCall)
    call._handed_over = True  # looked at and not executed, on purpose
    return call


async def test_a_planned_call_holds_all_that_the_manager_needs() -> None:
    call = AccountsStub(tcc.plan).TryDebit(
        DEBIT, timeout=2.5, metadata=(("tcc-step", "debit"), ("tenant", "x"), ("token-bin", b"\x00\xff"))
    )
    branch = planned(call).branch
    assert branch.participant == SERVICE
    assert branch.action.try_method == f"/{SERVICE}/TryDebit"
    assert branch.action.confirm_method == f"/{SERVICE}/ConfirmDebit"
    assert branch.action.cancel_method == f"/{SERVICE}/CancelDebit"
    assert branch.request == DEBIT.SerializeToString()
    assert (branch.step, branch.timeout) == ("debit", 2.5)
    assert branch.metadata == (("tenant", "x"), ("token-bin", b"\x00\xff"))


async def test_a_named_participant_is_addressed_by_that_name() -> None:
    assert planned(AccountsStub(tcc.plan.participant("bank-a")).TryDebit(DEBIT)).branch.participant == "bank-a"


@pytest.mark.parametrize("name", ["", "bank a", "x" * 65])
async def test_a_participant_name_that_cannot_be_is_refused_at_once(name: str) -> None:
    with pytest.raises(tcc.UsageError, match="participant"):
        tcc.plan.participant(name)


async def test_the_request_is_serialised_when_the_call_is_planned() -> None:
    request = type(DEBIT)(account="a", amount=1)
    call = planned(AccountsStub(tcc.plan).TryDebit(request))
    request.amount = 1_000_000
    assert call.branch.request == type(DEBIT)(account="a", amount=1).SerializeToString()


async def test_a_method_that_is_no_try_says_so_when_it_is_called() -> None:
    bank = AccountsStub(tcc.plan)
    with pytest.raises(tcc.UsageError, match="GetAccount is no Try"):
        bank.GetAccount(GetAccountRequest(account="a"))


async def test_a_confirm_says_that_it_is_the_managers_to_send() -> None:
    with pytest.raises(tcc.UsageError, match=r"sent by the manager.*call /services.accounts.v1.Accounts/TryDebit"):
        AccountsStub(tcc.plan).ConfirmDebit(DEBIT)


async def test_streaming_methods_fail_when_called_and_not_when_the_stub_is_built() -> None:
    path = f"/{SERVICE}/Stream"
    methods = [
        tcc.plan.unary_stream(path, GetAccountRequest.SerializeToString, Account.FromString, _registered_method=True),
        tcc.plan.stream_unary(path, GetAccountRequest.SerializeToString, Account.FromString, _registered_method=True),
        tcc.plan.stream_stream(path, GetAccountRequest.SerializeToString, Account.FromString, _registered_method=True),
    ]
    for method in methods:
        with pytest.raises(tcc.UsageError, match="streaming"):
            method(GetAccountRequest())  # type: ignore[operator]  # a list of three unlike types


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ((("tcc-step", ""),), "step is empty"),
        ((("tcc-step", "a b"),), "step 'a b'"),
        ((("tcc-gid", "x"),), "reserved"),
        ((("grpc-timeout", "1S"),), "reserved"),
    ],
)
async def test_metadata_that_cannot_be_is_refused_at_once(
    metadata: tuple[tuple[str, str], ...], complaint: str
) -> None:
    with pytest.raises(tcc.UsageError, match=complaint):
        AccountsStub(tcc.plan).TryDebit(DEBIT, metadata=metadata)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
async def test_a_timeout_of_no_time_is_refused_at_once(timeout: float) -> None:
    with pytest.raises(tcc.UsageError, match="no time"):
        AccountsStub(tcc.plan).TryDebit(DEBIT, timeout=timeout)


async def test_what_only_a_real_call_could_honour_is_refused() -> None:
    with pytest.raises(tcc.UsageError, match="compression"):
        AccountsStub(tcc.plan).TryDebit(DEBIT, compression=grpc.Compression.Gzip)


async def test_awaiting_a_planned_call_says_what_carries_it_out() -> None:
    call = AccountsStub(tcc.plan).TryDebit(DEBIT)
    planned(call)
    with pytest.raises(tcc.UsageError, match=r"manager\.execute"):
        await call
    with pytest.raises(tcc.UsageError, match=r"manager\.execute"):
        call.cancel()
    with pytest.raises(tcc.UsageError, match=r"manager\.execute"):
        await call.code()


async def test_a_planned_call_that_is_thrown_away_is_warned_about_by_name() -> None:
    call = AccountsStub(tcc.plan).TryDebit(DEBIT)
    with pytest.warns(tcc.NeverExecutedWarning, match=r"TryDebit at services\.accounts\.v1\.Accounts"):
        del call  # CPython throws it away here


async def test_an_executed_call_is_thrown_away_in_silence(manager: tcc.Manager) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await manager.execute(AccountsStub(tcc.plan).TryDebit(DEBIT))
        gc.collect()


async def test_a_call_belongs_to_one_transaction(manager: tcc.Manager, fake: FakeManager) -> None:
    call = AccountsStub(tcc.plan).TryDebit(DEBIT)
    await manager.execute(call, gid="t-1")
    with pytest.raises(tcc.UsageError, match="gid='t-1' to repeat"):
        await manager.execute(call)
    with pytest.raises(tcc.UsageError, match="gid='t-1' to repeat"):
        await manager.execute(call, gid="t-2")
    assert [request.gid for request in fake.requests("Execute")] == ["t-1"]


async def test_a_call_may_be_executed_again_under_its_gid(manager: tcc.Manager, fake: FakeManager) -> None:
    call = AccountsStub(tcc.plan).TryDebit(DEBIT)
    first = await manager.execute(call, gid="t-1")
    again = await manager.execute(call, gid="t-1")
    assert first.replies == again.replies
    one, two = fake.requests("Execute")
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


async def test_two_executions_at_once_cannot_share_a_call(manager: tcc.Manager, fake: FakeManager) -> None:
    call = AccountsStub(tcc.plan).TryDebit(DEBIT)
    results = await asyncio.gather(manager.execute(call), manager.execute(call), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["Executed", "UsageError"]
    assert len(fake.requests("Execute")) == 1


async def test_the_same_call_twice_in_one_plan_is_refused(manager: tcc.Manager) -> None:
    call = AccountsStub(tcc.plan).TryDebit(DEBIT)
    with pytest.raises(tcc.UsageError, match="twice"):
        await manager.execute(call, call)


async def test_nothing_to_execute_is_refused(manager: tcc.Manager) -> None:
    with pytest.raises(tcc.UsageError, match="nothing to execute"):
        await manager.execute()


async def test_steps_of_a_plan_must_differ_also_from_positions(manager: tcc.Manager) -> None:
    bank = AccountsStub(tcc.plan)
    with pytest.raises(tcc.UsageError, match="steps must differ"):
        await manager.execute(bank.TryDebit(DEBIT, metadata=(("tcc-step", "1"),)), bank.TryCredit(CREDIT))


async def test_a_call_from_another_channel_is_refused(manager: tcc.Manager) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        call = AccountsStub(channel).TryDebit(DEBIT)
        with pytest.raises(tcc.UsageError, match="no planned call"):
            await manager.execute(call)
        call.cancel()


@pytest.mark.parametrize("gid", ["", "a/b", "x" * 65])
async def test_a_gid_that_cannot_be_is_refused_before_anything_is_sent(
    manager: tcc.Manager, fake: FakeManager, gid: str
) -> None:
    call = AccountsStub(tcc.plan).TryDebit(DEBIT)
    planned(call)
    with pytest.raises(tcc.UsageError, match="gid"):
        await manager.execute(call, gid=gid)
    assert not fake.asked
