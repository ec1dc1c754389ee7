"""Mistakes that a type checker must find; each line that has one says so."""

from shop.v1.stock_pb2 import TakeReply, TakeRequest
from shop.v1.stock_pb2_grpc import StockStub

import tcc


async def mistaken(manager: tcc.Manager) -> None:
    stock = StockStub(tcc.plan)
    stock.TryTake(TakeReply())  # wrong: the request's type
    done = await manager.execute(stock.TryTake(TakeRequest()), stock.TryTake(TakeRequest()))
    one, two, three = done.replies  # wrong: the number of replies
    reply: TakeRequest = done.replies[0]  # wrong: the reply's type
    async with manager.transaction("gift") as tx:
        other: TakeRequest = await StockStub(tx.channel).TryTake(TakeRequest())  # wrong: the reply's type
