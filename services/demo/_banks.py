"""The two banks: their accounts before the first transfer, and their books at any time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from services.accounts.v1.accounts_pb2 import GetAccountRequest, GetTotalsRequest, OpenAccountRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
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
    """One bank: a process, a database, and the stub for what is no transaction."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.database = folder / f"{name}.db"
        self.server = Server(name, ("services.accounts", "--name", name, "--database", str(self.database)), folder)

    async def open_accounts(self) -> None:
        """Opens the accounts."""
        async with self._channel() as channel:
            stub = AccountsStub(channel)
            for account, available in OPENING.items():
                await stub.OpenAccount(OpenAccountRequest(account=account, available=available))

    async def books(self) -> Books:
        """The present books: what the bank answers, and what its database holds."""
        async with self._channel() as channel:
            stub = AccountsStub(channel)
            accounts = [await stub.GetAccount(GetAccountRequest(account=account)) for account in OPENING]
            totals = await stub.GetTotals(GetTotalsRequest())
        tried = await asyncio.to_thread(self._query, "SELECT gid FROM tcc_fence WHERE state = 'TRIED'")
        return Books(
            balances={account.account: account.available for account in accounts},
            available=totals.available,
            reserved=totals.reserved,
            tried=len(tried),
        )

    async def fence_state(self, gid: str) -> str:
        """What the bank's fence holds for its branch of a transaction; "" for nothing. Works while the bank is dead."""
        rows = await asyncio.to_thread(self._query, "SELECT state FROM tcc_fence WHERE gid = ?", gid)
        return str(rows[0][0]) if rows else ""

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.server.address, (("grpc.enable_http_proxy", 0),))

    def _query(self, sql: str, *arguments: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return database.execute(sql, arguments).fetchall()
