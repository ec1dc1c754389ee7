"""A client as a program of its own, so that any Python can run it: two transfers at one bank, and what came of them.

    python client.py MANAGER BANK NAME

Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

import grpc.aio

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub


async def main(manager_address: str, bank_address: str, name: str) -> None:
    """One transfer that is confirmed, one that the bank refuses."""
    async with tcc.Manager(manager_address) as manager, grpc.aio.insecure_channel(bank_address) as channel:
        bank = AccountsStub(channel)
        for account in ("ann", "bob"):
            await bank.OpenAccount(pb.OpenAccountRequest(account=account, available=100))
        planned = AccountsStub(tcc.plan.participant(name))

        async def transfer(amount: int) -> tuple[str, str]:
            gid = f"{name}-{amount}"
            try:
                await manager.execute(
                    planned.TryDebit(pb.DebitRequest(account="ann", amount=amount)),
                    planned.TryCredit(pb.CreditRequest(account="bob", amount=amount)),
                    gid=gid,
                )
                said = "confirmed"
            except tcc.TransactionCancelled as stopped:
                said = str(stopped.refusals[0].details())
            return said, (await manager.wait(gid)).state.value

        transfers = [await transfer(30), await transfer(1000)]
        accounts = {}
        for account in ("ann", "bob"):
            found = await bank.GetAccount(pb.GetAccountRequest(account=account))
            accounts[account] = [found.available, found.reserved]
    print(json.dumps({"transfers": transfers, "accounts": accounts}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
