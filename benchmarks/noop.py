"""A participant whose business code does nothing, on a fence in memory: what is left is coordination."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from google.protobuf.empty_pb2 import Empty

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsServicer, add_AccountsServicer_to_server


class Nothing(AccountsServicer):
    """Reserves, confirms and cancels nothing."""

    async def TryDebit(self, request: pb.DebitRequest, context: Any) -> pb.DebitReply:
        return pb.DebitReply()

    async def ConfirmDebit(self, request: pb.DebitRequest, context: Any) -> Empty:
        return Empty()

    async def CancelDebit(self, request: pb.DebitRequest, context: Any) -> Empty:
        return Empty()

    async def TryCredit(self, request: pb.CreditRequest, context: Any) -> pb.CreditReply:
        return pb.CreditReply()

    async def ConfirmCredit(self, request: pb.CreditRequest, context: Any) -> Empty:
        return Empty()

    async def CancelCredit(self, request: pb.CreditRequest, context: Any) -> Empty:
        return Empty()

    async def OpenAccount(self, request: pb.OpenAccountRequest, context: Any) -> pb.Account:
        return pb.Account()

    async def GetAccount(self, request: pb.GetAccountRequest, context: Any) -> pb.Account:
        return pb.Account()

    async def GetTotals(self, request: pb.GetTotalsRequest, context: Any) -> pb.Totals:
        return pb.Totals()


async def main() -> None:
    """Serve until told to end."""
    server = tcc.ParticipantServer("127.0.0.1:0", fence=tcc.MemoryFence(), name="noop")
    add_AccountsServicer_to_server(Nothing(), server)
    await server.run(started=lambda: print(f"127.0.0.1:{server.port}", flush=True))


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main())
