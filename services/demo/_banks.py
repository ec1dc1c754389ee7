"""The two banks: their accounts before the first transfer, and their books at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from services.accounts.v1.accounts_pb2 import GetAccountRequest, GetTotalsRequest, OpenAccountRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from services.demo._fence import FenceTable
from services.demo._processes import Server

OPENING = {"ann": 1_000_00, "ben": 1_000_00, "cleo": 1_000_00, "dan": 1_000_00, "kim": 5_00}
"""Each bank's accounts and what they start with, in cents. Kim's 5.00 are less than any transfer."""


@dataclass(frozen=True, slots=True)
class Books:
    """What a bank has, in cents.

    Attributes:
        balances: available money by account.
        available: the sum of all accounts, as the bank says.
        reserved: the same of what is kept aside.
        tried: reservations in the bank's fence that are neither confirmed nor cancelled.
    """

    balances: Mapping[str, int]
    available: int
    reserved: int
    tried: int

    @property
    def money(self) -> int:
        """All the money that is in the bank."""
        return self.available + self.reserved


class Bank:
    """One bank: a process, a database, and the stub for what is no transaction.

    Args:
        name: the participant's.
        folder: for its log, and its database unless that is elsewhere.
        opening: its accounts, and what they start with, in cents.
        database: its url; "" for an SQLite file in the folder.
        options: further ones of its process.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        opening: Mapping[str, int] = OPENING,
        database: str = "",
        options: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._opening = opening
        url = database or f"sqlite+aiosqlite:///{folder / name}.db"
        self.fence = FenceTable(url)
        self.server = Server(name, ("services.accounts", "--name", name, "--database", url, *options), folder)

    async def open_accounts(self) -> None:
        """Opens the accounts."""
        async with self._channel() as channel:
            stub = AccountsStub(channel)
            for account, available in self._opening.items():
                await stub.OpenAccount(OpenAccountRequest(account=account, available=available))

    async def books(self) -> Books:
        """The present books: what the bank answers, and what its database holds."""
        async with self._channel() as channel:
            stub = AccountsStub(channel)
            accounts = [await stub.GetAccount(GetAccountRequest(account=account)) for account in self._opening]
            totals = await stub.GetTotals(GetTotalsRequest())
        return Books(
            balances={account.account: account.available for account in accounts},
            available=totals.available,
            reserved=totals.reserved,
            tried=await self.fence.tried(),
        )

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.server.address, (("grpc.enable_http_proxy", 0),))
