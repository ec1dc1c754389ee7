"""The two faces of the shop's orders: `Orders` for customers, `Placement` for the manager.

`Placement` is a participant like any other. That the order is placed by a transaction that this service started itself
makes no difference to it. What can crash when, and what then: see `_placing`.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty
from sqlalchemy import select

import tcc
from services.orders._book import ORDERS, Book, Order, State, Terms, Wish, settling
from services.orders._placing import Placing
from services.orders.v1 import orders_pb2 as pb, orders_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

COSTS_AT_MOST: Final = 10**12
"""Cents that an order may cost."""
_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_STATES: Final = {
    State.PENDING: pb.STATE_PENDING,
    State.PLACED: pb.STATE_PLACED,
    State.REJECTED: pb.STATE_REJECTED,
}


class Orders(orders_pb2_grpc.OrdersServicer):
    """For customers.

    Args:
        book: has the orders.
        placing: runs their transactions.
        terms: for new orders.
    """

    def __init__(self, book: Book, placing: Placing, terms: Terms) -> None:
        self._book = book
        self._placing = placing
        self._terms = terms

    async def PlaceOrder(self, request: pb.PlaceOrderRequest, context: Context) -> pb.Order:
        """Takes an order and places it; asked again, gives the same answer."""
        if problem := _problem(request):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        wish = Wish(request.order_id, request.customer, request.sku, request.quantity, request.unit_price)
        order = await self._book.take(wish, self._terms)
        if order.wish != wish:
            text = f"order {wish.order_id} was taken with other content: {order.wish}"
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, text)
        if not order.is_settled:
            undecided = await self._placing.place(order)
            order = await self._book.find(wish.order_id) or order
            if undecided is not None and order.state is State.PENDING:
                text = f"order {wish.order_id} is taken and PENDING, it will be gone on with: {undecided.why}"
                await context.abort(grpc.StatusCode.UNAVAILABLE, text)
        return _message(order)

    async def GetOrder(self, request: pb.GetOrderRequest, context: Context) -> pb.Order:
        """One order."""
        order = await self._book.find(request.order_id)
        if order is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no order {request.order_id}")
        return _message(order)

    async def GetTotals(self, request: pb.GetTotalsRequest, context: Context) -> pb.Totals:
        """The sums over all orders."""
        totals = await self._book.totals()
        return pb.Totals(
            pending=totals.orders[State.PENDING],
            placed=totals.orders[State.PLACED],
            rejected=totals.orders[State.REJECTED],
            pieces=totals.pieces,
            cents=totals.cents,
        )


class Placement(orders_pb2_grpc.PlacementServicer):
    """For the manager: an order's own branch, on the fence's database."""

    def __init__(self, fence: tcc.SqlFence) -> None:
        self._fence = fence

    async def TryPlace(self, request: pb.PlaceRequest, context: Context) -> Empty:
        """The order is there and open. Nothing is to be reserved: its row is."""
        if request.order_id != tcc.branch().gid:  # or a transaction without the money could place it
            text = f"order {request.order_id} is placed by the transaction of that gid alone"
            raise tcc.Refused(text, grpc.StatusCode.INVALID_ARGUMENT)
        state = await self._fence.session.scalar(select(ORDERS.c.state).where(ORDERS.c.order_id == request.order_id))
        if state is None:
            raise tcc.Refused(f"there is no order {request.order_id}", grpc.StatusCode.NOT_FOUND)
        if state != State.PENDING:
            raise tcc.Refused(f"order {request.order_id} is {state}")
        return Empty()

    async def ConfirmPlace(self, request: pb.PlaceRequest, context: Context) -> Empty:
        """The order is placed."""
        await self._settle(request.order_id, State.PLACED)
        return Empty()

    async def CancelPlace(self, request: pb.PlaceRequest, context: Context) -> Empty:
        """The order is rejected; why, only Execute's answer says."""
        await self._settle(request.order_id, State.REJECTED)
        return Empty()

    async def _settle(self, order_id: str, state: State) -> None:
        if await self._fence.session.scalar(settling(order_id, state).returning(ORDERS.c.order_id)) is None:
            raise RuntimeError(f"order {order_id} cannot become {state}: it was settled otherwise")


def _problem(request: pb.PlaceOrderRequest) -> str:
    """What is wrong with an order; "" for nothing. What the manager would refuse must not get a row first."""
    if not _ID.fullmatch(request.order_id):
        return "an order_id is 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -"
    if not (1 <= len(request.customer) <= 64 and 1 <= len(request.sku) <= 64):
        return "customer and sku have 1 to 64 characters each"
    if request.quantity <= 0 or request.unit_price <= 0:
        return "quantity and unit_price must be positive"
    if request.quantity * request.unit_price > COSTS_AT_MOST:
        return f"an order may cost {COSTS_AT_MOST} cents at most"
    return ""


def _message(order: Order) -> pb.Order:
    wish = order.wish
    return pb.Order(
        order_id=wish.order_id,
        customer=wish.customer,
        sku=wish.sku,
        quantity=wish.quantity,
        unit_price=wish.unit_price,
        state=_STATES[order.state],
        reason=order.reason or "",
    )
