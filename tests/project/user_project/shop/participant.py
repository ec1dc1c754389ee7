"""A shop's stock, as a user of the toolkit would write it."""

import asyncio
import sys
from typing import Any

import grpc.aio
from google.protobuf.empty_pb2 import Empty
from shop.v1.stock_pb2 import TakeReply, TakeRequest
from shop.v1.stock_pb2_grpc import StockServicer, add_StockServicer_to_server
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, update

import tcc

METADATA = MetaData()
STOCK = Table(
    "stock",
    METADATA,
    Column("item", String, primary_key=True),
    Column("left", Integer, nullable=False),
    Column("held", Integer, nullable=False),
)
Context = grpc.aio.ServicerContext[Any, Any]


class Stock(StockServicer):
    def __init__(self, fence: tcc.SqlFence) -> None:
        self.fence = fence

    async def TryTake(self, request: TakeRequest, context: Context) -> TakeReply:
        taken = (
            update(STOCK)
            .where(STOCK.c.item == request.item, STOCK.c.left >= request.count)
            .values(left=STOCK.c.left - request.count, held=STOCK.c.held + request.count)
        )
        left = await self.fence.session.scalar(taken.returning(STOCK.c.left))
        if left is None:
            raise tcc.Refused(f"not enough of {request.item}")
        return TakeReply(left=left)

    async def ConfirmTake(self, request: TakeRequest, context: Context) -> Empty:
        reply: TakeReply = tcc.branch().try_reply(TakeReply)
        assert reply.left >= 0
        await self.fence.session.execute(
            update(STOCK).where(STOCK.c.item == request.item).values(held=STOCK.c.held - request.count)
        )
        return Empty()

    async def CancelTake(self, request: TakeRequest, context: Context) -> Empty:
        await self.fence.session.execute(
            update(STOCK)
            .where(STOCK.c.item == request.item)
            .values(left=STOCK.c.left + request.count, held=STOCK.c.held - request.count)
        )
        return Empty()


async def serve(database: str) -> None:
    fence = tcc.SqlFence(f"sqlite+aiosqlite:///{database}")
    await fence.create_tables()
    async with fence.engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        await connection.execute(insert(STOCK).values(item="tea", left=10, held=0))
    server = tcc.ParticipantServer("127.0.0.1:0", fence=fence)
    add_StockServicer_to_server(Stock(fence), server)
    await server.run(started=lambda: print(server.port, flush=True))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
