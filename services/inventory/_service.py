"""A warehouse's stock: pieces are set aside, and then either leave or can be sold again.

Each handler is called in the transaction of `fence.session`. It need not think of repeated, late or concurrent calls:
the fence lets each effect happen once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty
from sqlalchemy import Update, func, insert, select, update
from sqlalchemy.exc import IntegrityError

import tcc
from services.inventory._database import STOCK as S
from services.inventory.v1 import inventory_pb2 as pb, inventory_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class Inventory(inventory_pb2_grpc.InventoryServicer):
    """The service, on the fence's database."""

    def __init__(self, fence: tcc.SqlFence) -> None:
        self._fence = fence

    async def TryReserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveReply:
        """Sets the pieces aside, if there are enough."""
        if request.quantity <= 0:
            text = f"a quantity must be positive, not {request.quantity}"
            raise tcc.Refused(text, grpc.StatusCode.INVALID_ARGUMENT)
        taken = _stock(request.sku).where(S.c.available >= request.quantity)
        taken = taken.values(available=S.c.available - request.quantity, reserved=S.c.reserved + request.quantity)
        left = await self._fence.session.scalar(taken.returning(S.c.available))
        if left is None:
            available = await self._fence.session.scalar(select(S.c.available).where(S.c.sku == request.sku))
            if available is None:
                raise tcc.Refused(f"there is no sku {request.sku}", grpc.StatusCode.NOT_FOUND)
            raise tcc.Refused(f"{request.sku} is out of stock: {available} left, {request.quantity} wanted")
        branch = tcc.branch()
        return pb.ReserveReply(reservation_id=f"{branch.gid}/{branch.step}", available=left)

    async def ConfirmReserve(self, request: pb.ReserveRequest, context: Context) -> Empty:
        """The pieces have left."""
        await self._change(_stock(request.sku).values(reserved=S.c.reserved - request.quantity))
        return Empty()

    async def CancelReserve(self, request: pb.ReserveRequest, context: Context) -> Empty:
        """The pieces can be sold again."""
        put_back = {"available": S.c.available + request.quantity, "reserved": S.c.reserved - request.quantity}
        await self._change(_stock(request.sku).values(put_back))
        return Empty()

    # Outside of transactions.

    async def PutStock(self, request: pb.PutStockRequest, context: Context) -> pb.Stock:
        """Takes a new sku into stock; the same again changes nothing."""
        if not 1 <= len(request.sku) <= 64 or request.quantity < 0:
            text = "a sku has 1 to 64 characters and a quantity of zero or more"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        quantity = request.quantity
        put = insert(S).values(sku=request.sku, put_in=quantity, available=quantity, reserved=0)
        with suppress(IntegrityError):  # it is there already
            async with self._fence.begin() as connection:
                await connection.execute(put)
        async with self._fence.engine.connect() as connection:
            row = (await connection.execute(select(S).where(S.c.sku == request.sku))).one()
        if row.put_in != quantity:
            text = f"sku {row.sku} came in with {row.put_in} pieces, not {quantity}"
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, text)
        return pb.Stock(sku=row.sku, available=row.available, reserved=row.reserved)

    async def GetStock(self, request: pb.GetStockRequest, context: Context) -> pb.Stock:
        """The stock of one sku."""
        async with self._fence.engine.connect() as connection:
            row = (await connection.execute(select(S).where(S.c.sku == request.sku))).one_or_none()
        if row is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no sku {request.sku}")
        return pb.Stock(sku=row.sku, available=row.available, reserved=row.reserved)

    async def GetTotals(self, request: pb.GetTotalsRequest, context: Context) -> pb.Totals:
        """The sums over all skus."""
        sums = select(func.count(), func.coalesce(func.sum(S.c.available), 0), func.coalesce(func.sum(S.c.reserved), 0))
        async with self._fence.engine.connect() as connection:
            skus, available, reserved = (await connection.execute(sums)).one()
        return pb.Totals(skus=skus, available=int(available), reserved=int(reserved))  # PostgreSQL's sums are decimals

    async def _change(self, change: Update) -> None:
        changed = await self._fence.session.scalar(change.returning(S.c.sku))
        if changed is None:  # its Try found the sku, and skus are never removed
            raise RuntimeError("the sku of a reservation is gone")


def _stock(sku: str) -> Update:
    return update(S).where(S.c.sku == sku)
