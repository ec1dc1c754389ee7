"""The client checks each transaction's end: one that ends otherwise than it was asked to is no figure but an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import tcc
from benchmarks.transactions import REFUSED_ACCOUNT, Transactions, WrongEnd
from benchmarks.workloads import WORKLOADS, Asked


class FakeManager:
    """Ends each transaction as the test says; keeps what was asked for."""

    cancels: tcc.TransactionCancelled | None = None
    asked: list[tuple[Any, ...]]

    def __init__(self, *_: object, **__: object) -> None:
        FakeManager.asked = []

    async def execute(self, *calls: Any, name: str) -> None:
        for call in calls:
            FakeManager.asked.append((call, name))
        if FakeManager.cancels is not None:
            raise FakeManager.cancels

    async def close(self) -> None:
        pass


class FakeStub:
    """Says which branch was asked for."""

    def __init__(self, channel: Any) -> None:
        pass

    def TryDebit(self, request: Any) -> str:
        return f"debit {request.account}"

    def TryCredit(self, request: Any) -> str:
        return f"credit {request.account}"


ASKED = Asked(("a", "b"), accounts=5, refused_of_ten=3)


@pytest.fixture
async def transactions(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transactions]:
    monkeypatch.setattr(tcc, "Manager", FakeManager)
    monkeypatch.setattr("benchmarks.transactions.AccountsStub", FakeStub)
    monkeypatch.setattr(FakeManager, "cancels", None)
    async with Transactions("127.0.0.1:1", ASKED, "http://127.0.0.1:1") as made:
        yield made


def refused() -> tcc.TransactionCancelled:
    refusal = tcc.BranchRefused("t", "1", "b", "/s/TryCredit", grpc.StatusCode.NOT_FOUND, "as asked")
    return tcc.TransactionCancelled("t", (refusal,))


async def test_the_last_three_of_ten_ask_for_an_account_that_is_refused(transactions: Transactions) -> None:
    await transactions.run(6)
    with pytest.raises(WrongEnd, match="should have been refused"):
        await transactions.run(7)
    assert [call for call, _ in FakeManager.asked] == [
        "debit bench-1",
        "credit bench-1",
        "debit bench-2",
        f"credit {REFUSED_ACCOUNT}",
    ]
    assert transactions.ends == {"confirmed": 1, "refused": 0}


async def test_a_refusal_that_nobody_asked_for_is_an_error(
    transactions: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeManager, "cancels", refused())
    await transactions.run(8)
    assert transactions.ends == {"confirmed": 0, "refused": 1}
    with pytest.raises(WrongEnd, match="was cancelled"):
        await transactions.run(3)


async def test_a_cancel_without_a_refusal_is_an_error_even_where_one_was_asked_for(
    transactions: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeManager, "cancels", tcc.TransactionCancelled("t", ()))
    with pytest.raises(WrongEnd):
        await transactions.run(9)


def test_what_is_asked_for_survives_the_command_line() -> None:
    for workload in WORKLOADS.values():
        assert Asked.from_json(workload.asks().to_json()) == workload.asks()


def test_participants_that_do_nothing_can_be_spread_over_processes() -> None:
    assert WORKLOADS["W2"].spread(2).asks().participants == ("noop-1", "noop-2")
    assert WORKLOADS["W2"].spread(1) == WORKLOADS["W2"]
    assert WORKLOADS["W3"].spread(2) == WORKLOADS["W3"]
