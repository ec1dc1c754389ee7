"""Clients that transfer one cent after the other, as plans and interactively, and note what each was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tests.spine.installation import credit, debit
from tests.stack.books import Asked, Run

TOO_MUCH = 1_000_000
LAST = 3_000_001
"""The number of an interactive transfer that no load gets to."""
TIMEOUT = 15.0
"""Seconds of a transaction: longer than what is broken stays so."""
_PAUSE = 0.1
"""Seconds between a client's transfers, so that a test of seconds does not make thousands."""
PATIENCE = 60.0
"""Seconds in which there must have been more traffic."""


class Load:
    """Traffic of one run.

    Args:
        clients: each worker belongs to the next of them.
        banks: money goes from the first to the second, and back.
        timeout: seconds of each transaction.
    """

    def __init__(
        self, run: Run, clients: Sequence[tcc.Manager], banks: tuple[str, str], *, timeout: float = TIMEOUT
    ) -> None:
        self._run = run
        self._clients = clients
        self._banks = banks
        self._timeout = timeout
        self._numbers = count()
        self._over = False
        self._told = asyncio.Event()
        self.unknown = 0

    @asynccontextmanager
    async def flowing(self, workers: int = 8) -> AsyncIterator[None]:
        """There is traffic, in the block; all clients have their answers after it."""
        async with asyncio.TaskGroup() as group:
            for worker in range(workers):
                group.create_task(self._work(self._clients[worker % len(self._clients)]))
            try:
                yield
            finally:
                self._over = True

    async def until_told(self, more: int) -> None:
        """Wait until so many more clients were told a decision."""
        goal = self._run.told + more
        async with asyncio.timeout(PATIENCE):
            while self._run.told < goal:
                self._told.clear()
                await self._told.wait()

    async def _work(self, client: tcc.Manager) -> None:
        while not self._over:
            number = next(self._numbers)
            out, into = self._banks if number % 2 else self._banks[::-1]
            amount = TOO_MUCH if number % 5 == 4 else 1
            accounts = self._run.accounts
            asked = Asked(out, into, accounts[number % len(accounts)], amount)
            gid = f"{self._run.name}-{number}"
            self._run.asked[gid] = asked
            transfer = self._plan if is_plan(number) else self._talk
            try:
                await transfer(client, gid, asked)
                asked.told = tcc.Decision.CONFIRM
            except tcc.TransactionCancelled:
                asked.told = tcc.Decision.CANCEL
            except (tcc.OutcomeUnknown, tcc.ManagerUnavailable):
                self.unknown += 1
            assert (amount, asked.told) != (TOO_MUCH, tcc.Decision.CONFIRM)
            self._told.set()
            await asyncio.sleep(_PAUSE)

    async def _plan(self, client: tcc.Manager, gid: str, asked: Asked) -> None:
        await client.execute(*planned(asked), gid=gid, timeout=self._timeout)

    async def _talk(self, client: tcc.Manager, gid: str, asked: Asked) -> None:
        try:
            async with client.transaction(gid=gid, timeout=self._timeout) as tx:
                await reserve(tx, asked)
        except tcc.BranchRefused as refused:  # so the client never asked for a confirm
            raise tcc.TransactionCancelled(gid, (refused,), "CLIENT") from refused


def is_plan(number: int) -> bool:
    """Of a transfer's number: it is a plan, and no interactive transaction."""
    return number % 3 != 1


def planned(asked: Asked) -> tuple[Any, Any]:
    """The transfer as a plan."""
    return debit(asked.out, asked.amount, account=asked.account), credit(
        asked.into, asked.amount, account=asked.account
    )


async def reserve(tx: tcc.Transaction, asked: Asked) -> None:
    """Both Tries of the transfer, in an interactive transaction."""
    out, into = (AccountsStub(tx.channel.participant(bank)) for bank in (asked.out, asked.into))
    await out.TryDebit(pb.DebitRequest(account=asked.account, amount=asked.amount))
    await into.TryCredit(pb.CreditRequest(account=asked.account, amount=asked.amount))
