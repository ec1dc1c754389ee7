"""The transactions that the client runs, each checked: a figure counts only if every one ended as it was asked to."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc.aio

import tcc
from benchmarks.workloads import Asked
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tcc.tracing.export import Exporter

if TYPE_CHECKING:  # what the stub's types call a stub on an asyncio channel; there is no such class at run time
    from services.accounts.v1.accounts_pb2_grpc import AccountsAsyncStub

SAMPLED = 0.01
"""Share of transactions that are traced, on all sides."""

REFUSED_ACCOUNT = "refuse"
"""An account that no bank has, and that the handlers which do nothing refuse."""


def account(number: int) -> str:
    """The name of an account, from 0."""
    return f"bench-{number}"


class WrongEnd(Exception):
    """A transaction did not end as it was asked to."""


class Transactions:
    """A client and what it asks for.

    Args:
        target: the manager.
        otlp: where spans go.

    Attributes:
        ends: how many transactions were `confirmed` and `refused`.
    """

    def __init__(self, target: str, asked: Asked, otlp: str) -> None:
        self._asked = asked
        self._exporter = Exporter("bench-client", otlp, sample=SAMPLED)
        self._manager = tcc.Manager(target, tracer_provider=self._exporter.provider)
        self._planned = [AccountsStub(tcc.plan.participant(name)) for name in asked.participants]
        self.ends = {"confirmed": 0, "refused": 0}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._manager.close()
        await self._exporter.close()

    async def run(self, number: int) -> None:
        """One transaction.

        Args:
            number: of this one, from 0; says which account it is about, and whether it is to be refused.

        Raises:
            WrongEnd: it was confirmed and should have been refused, or the reverse.
        """
        to_be_refused = number % 10 >= 10 - self._asked.refused_of_ten
        try:
            if self._asked.interactive:
                await self._interactive(number, to_be_refused)
            else:
                await self._manager.execute(*self._calls(self._planned, number, to_be_refused), name=self._asked.name)
        except tcc.TransactionCancelled as cancelled:
            if not to_be_refused or not cancelled.refusals:
                raise WrongEnd(f"transaction {number} was cancelled: {cancelled}") from cancelled
            self.ends["refused"] += 1
        else:
            if to_be_refused:
                raise WrongEnd(f"transaction {number} was confirmed, and should have been refused")
            self.ends["confirmed"] += 1

    async def _interactive(self, number: int, to_be_refused: bool) -> None:
        async with self._manager.transaction(self._asked.name) as tx:
            stubs = [AccountsStub(tx.channel.participant(name)) for name in self._asked.participants]
            for call in self._calls(stubs, number, to_be_refused):
                await call

    def _calls(
        self, stubs: Sequence[AccountsAsyncStub], number: int, to_be_refused: bool
    ) -> list[grpc.aio.UnaryUnaryCall[Any, Any]]:
        """A call a branch: debits and credits in turn, at the participants in turn."""
        name = account(number % self._asked.accounts)
        names = [name] * self._asked.branches
        if to_be_refused:
            names[-1] = REFUSED_ACCOUNT
        calls: list[grpc.aio.UnaryUnaryCall[Any, Any]] = []
        for branch, named in enumerate(names):
            stub = stubs[branch % len(stubs)]
            if branch % 2 == 0:
                calls.append(stub.TryDebit(pb.DebitRequest(account=named, amount=1)))
            else:
                calls.append(stub.TryCredit(pb.CreditRequest(account=named, amount=1)))
        return calls
