"""A client, as a user of the toolkit would write it: two plans and an interactive transaction."""

import asyncio
import sys

from shop.v1.stock_pb2 import TakeReply, TakeRequest
from shop.v1.stock_pb2_grpc import StockStub

import tcc


async def buy(address: str) -> None:
    async with tcc.Manager(address) as manager:
        stock = StockStub(tcc.plan)
        done = await manager.execute(
            stock.TryTake(TakeRequest(item="tea", count=1)),
            stock.TryTake(TakeRequest(item="tea", count=2)),
            name="buy",
            gid="t-1",
            wait=tcc.COMPLETED,
        )
        first, second = done.replies
        replies: tuple[TakeReply, TakeReply] = (first, second)
        print("confirmed", sorted(reply.left for reply in replies) in ([7, 8], [7, 9]))
        try:
            await manager.execute(stock.TryTake(TakeRequest(item="tea", count=100)), gid="t-2")
        except tcc.TransactionCancelled as stopped:
            print("cancelled", stopped.refusals[0].code().name, stopped.refusals[0].details())
        async with manager.transaction("gift") as tx:
            reply = await StockStub(tx.channel).TryTake(TakeRequest(item="tea", count=3))
            left: int = reply.left
            print("reserved, left", left)


if __name__ == "__main__":
    asyncio.run(buy(sys.argv[1]))
