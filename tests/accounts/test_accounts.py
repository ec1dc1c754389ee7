"""The bank's promises: money is kept aside, given back or moved on, and the sums never lie."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest

import tcc
from services._database import opened
from services.accounts._database import METADATA
from services.accounts._service import Accounts
from services.accounts.v1 import accounts_pb2 as pb, accounts_pb2_grpc
from tests.accounts.bank import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
async def stub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[accounts_pb2_grpc.AccountsAsyncStub]:
    postgres = request.param == "postgresql"
    database = request.getfixturevalue("postgres_server").database() if postgres else str(tmp_path / "bank.db")
    async with opened(database, METADATA) as fence:
        server = tcc.ParticipantServer("127.0.0.1:0", fence=fence)
        accounts_pb2_grpc.add_AccountsServicer_to_server(Accounts(fence), server)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub: Any = accounts_pb2_grpc.AccountsStub(channel)
            await stub.OpenAccount(pb.OpenAccountRequest(account="ann", available=100))
            yield stub
        await server.stop(None)


Stub: TypeAlias = "accounts_pb2_grpc.AccountsAsyncStub"  # for type checkers only
DEBIT = pb.DebitRequest(account="ann", amount=30)
CREDIT = pb.CreditRequest(account="ann", amount=30)


async def ann(stub: Stub) -> tuple[int, int]:
    account = await stub.GetAccount(pb.GetAccountRequest(account="ann"))
    return account.available, account.reserved


async def refused(call: Any) -> tuple[grpc.StatusCode, str, bool]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = raised.value
    return error.code(), error.details() or "", ("tcc-refused", "1") in tuple(error.trailing_metadata() or ())


async def test_a_debit_keeps_the_money_aside_and_then_lets_it_go(stub: Stub) -> None:
    reply = await stub.TryDebit(DEBIT, metadata=metadata("t-1", "try"))
    assert (reply.reservation_id, reply.available) == ("t-1/0", 70)
    assert await ann(stub) == (70, 30)

    await stub.ConfirmDebit(DEBIT, metadata=metadata("t-1", "confirm"))
    assert await ann(stub) == (70, 0)


async def test_a_cancelled_debit_gives_the_money_back(stub: Stub) -> None:
    await stub.TryDebit(DEBIT, metadata=metadata("t-1", "try"))
    await stub.CancelDebit(DEBIT, metadata=metadata("t-1", "cancel"))
    assert await ann(stub) == (100, 0)


async def test_a_credit_arrives_with_its_confirm_and_not_before(stub: Stub) -> None:
    await stub.TryCredit(CREDIT, metadata=metadata("t-1", "try"))
    assert await ann(stub) == (100, 0)
    await stub.ConfirmCredit(CREDIT, metadata=metadata("t-1", "confirm"))
    assert await ann(stub) == (130, 0)


async def test_a_cancelled_credit_leaves_nothing(stub: Stub) -> None:
    await stub.TryCredit(CREDIT, metadata=metadata("t-1", "try"))
    await stub.CancelCredit(CREDIT, metadata=metadata("t-1", "cancel"))
    assert await ann(stub) == (100, 0)


async def test_every_phase_may_come_twice(stub: Stub) -> None:
    for method, phase in ((stub.TryDebit, "try"), (stub.ConfirmDebit, "confirm")):
        for attempt in (1, 2):
            await method(DEBIT, metadata=metadata("t-1", phase, attempt))
    assert await ann(stub) == (70, 0)


async def test_a_repeated_try_is_reserved_though_the_money_would_not_do_for_a_second(stub: Stub) -> None:
    all_of_it = pb.DebitRequest(account="ann", amount=100)
    first = await stub.TryDebit(all_of_it, metadata=metadata("t-1", "try"))
    assert await stub.TryDebit(all_of_it, metadata=metadata("t-1", "try", 2)) == first


async def test_lack_of_money_refuses_and_names_the_account(stub: Stub) -> None:
    too_much = pb.DebitRequest(account="ann", amount=101)
    code, text, marked = await refused(stub.TryDebit(too_much, metadata=metadata("t-1", "try")))
    assert (code, marked) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert text == "account ann has less than 101 cents available"
    assert await ann(stub) == (100, 0)


async def test_an_unknown_account_refuses(stub: Stub) -> None:
    debit, credit = pb.DebitRequest(account="bob", amount=1), pb.CreditRequest(account="bob", amount=1)
    expected = (grpc.StatusCode.NOT_FOUND, "there is no account bob", True)
    assert await refused(stub.TryDebit(debit, metadata=metadata("t-1", "try"))) == expected
    assert await refused(stub.TryCredit(credit, metadata=metadata("t-2", "try"))) == expected


@pytest.mark.parametrize("amount", [0, -5])
async def test_an_amount_that_is_not_positive_refuses(stub: Stub, amount: int) -> None:
    debit, credit = pb.DebitRequest(account="ann", amount=amount), pb.CreditRequest(account="ann", amount=amount)
    for call in (
        stub.TryDebit(debit, metadata=metadata("t-1", "try")),
        stub.TryCredit(credit, metadata=metadata("t-2", "try")),
    ):
        code, _, marked = await refused(call)
        assert (code, marked) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert await ann(stub) == (100, 0)


async def test_opening_an_account_again_changes_nothing(stub: Stub) -> None:
    await stub.TryDebit(DEBIT, metadata=metadata("t-1", "try"))
    again = await stub.OpenAccount(pb.OpenAccountRequest(account="ann", available=100))
    assert (again.available, again.reserved) == (70, 30)

    code, text, _ = await refused(stub.OpenAccount(pb.OpenAccountRequest(account="ann", available=5)))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert "opened with 100 cents" in text


async def test_an_account_needs_a_name_and_no_debt(stub: Stub) -> None:
    for request in (pb.OpenAccountRequest(available=5), pb.OpenAccountRequest(account="bob", available=-1)):
        assert (await refused(stub.OpenAccount(request)))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_account_is_not_found(stub: Stub) -> None:
    assert (await refused(stub.GetAccount(pb.GetAccountRequest(account="bob"))))[0] is grpc.StatusCode.NOT_FOUND


async def test_totals_are_the_sums(stub: Stub) -> None:
    await stub.OpenAccount(pb.OpenAccountRequest(account="bob", available=11))
    await stub.TryDebit(DEBIT, metadata=metadata("t-1", "try"))
    assert await stub.GetTotals(pb.GetTotalsRequest()) == pb.Totals(accounts=2, available=81, reserved=30)
