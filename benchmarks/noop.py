"""A participant whose business code does nothing: what is left is coordination, and the fence where it has one.

    python -m benchmarks.noop --name noop [--database FILE] [--rabbitmq URL] [--redis URL] [--otlp URL] [--wait-ms 50]

Without a database its fence is in memory. Spans of traces that the client chose to record go to the OTLP receiver.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.empty_pb2 import Empty
from opentelemetry.trace import TracerProvider
from sqlalchemy import MetaData

import tcc
from benchmarks.transactions import REFUSED_ACCOUNT
from services._database import opened
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsServicer, add_AccountsServicer_to_server
from tcc.tracing.export import Exporter


class Nothing(AccountsServicer):
    """Reserves, confirms and cancels nothing; refuses `REFUSED_ACCOUNT`.

    Args:
        wait: seconds that each phase takes.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait

    @tcc.batchable
    async def TryDebit(self, request: pb.DebitRequest, context: Any) -> pb.DebitReply:
        await self._work(request.account)
        return pb.DebitReply()

    @tcc.batchable
    async def ConfirmDebit(self, request: pb.DebitRequest, context: Any) -> Empty:
        await self._work()
        return Empty()

    @tcc.batchable
    async def CancelDebit(self, request: pb.DebitRequest, context: Any) -> Empty:
        await self._work()
        return Empty()

    @tcc.batchable
    async def TryCredit(self, request: pb.CreditRequest, context: Any) -> pb.CreditReply:
        await self._work(request.account)
        return pb.CreditReply()

    @tcc.batchable
    async def ConfirmCredit(self, request: pb.CreditRequest, context: Any) -> Empty:
        await self._work()
        return Empty()

    @tcc.batchable
    async def CancelCredit(self, request: pb.CreditRequest, context: Any) -> Empty:
        await self._work()
        return Empty()

    async def OpenAccount(self, request: pb.OpenAccountRequest, context: Any) -> pb.Account:
        return pb.Account()

    async def GetAccount(self, request: pb.GetAccountRequest, context: Any) -> pb.Account:
        return pb.Account()

    async def GetTotals(self, request: pb.GetTotalsRequest, context: Any) -> pb.Totals:
        return pb.Totals()

    async def _work(self, account: str = "") -> None:
        if self._wait:
            await asyncio.sleep(self._wait)
        if account == REFUSED_ACCOUNT:
            raise tcc.Refused("as asked")


@asynccontextmanager
async def _fence(database: str | None) -> AsyncIterator[tcc.MemoryFence | tcc.SqlFence]:
    if database is None:
        yield tcc.MemoryFence()
        return
    async with opened(database, MetaData()) as fence:
        yield fence


@asynccontextmanager
async def _traced(name: str, otlp: str | None) -> AsyncIterator[TracerProvider | None]:
    if otlp is None:
        yield None
        return
    exporter = Exporter(name, otlp)
    try:
        yield exporter.provider
    finally:
        await exporter.close()


async def serve(options: argparse.Namespace) -> None:
    """Serve until told to end."""
    async with _fence(options.database) as fence, _traced(options.name, options.otlp) as spans:
        server = tcc.ParticipantServer(
            "127.0.0.1:0",
            fence=fence,
            name=options.name,
            lock=None if options.redis is None else tcc.RedisLock(options.redis),
            rabbitmq=options.rabbitmq,
            tracer_provider=spans,
        )
        add_AccountsServicer_to_server(Nothing(options.wait_ms / 1000), server)
        await server.run(started=lambda: print(f"{options.name} serves on 127.0.0.1:{server.port}", flush=True))


if __name__ == "__main__":
    command = argparse.ArgumentParser(prog="python -m benchmarks.noop")
    command.add_argument("--name", required=True)
    for option in ("--database", "--rabbitmq", "--redis", "--otlp"):
        command.add_argument(option)
    command.add_argument("--wait-ms", type=int, default=0)
    asyncio.run(serve(command.parse_args()))
