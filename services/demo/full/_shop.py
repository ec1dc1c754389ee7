"""The shop: a warehouse and an order book, each a process with a database, the orders, and how a customer orders."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

import tcc
from services.demo._banks import OPENING
from services.demo._fence import FenceTable
from services.demo._processes import Server
from services.demo._transfers import Told, Transfer
from services.inventory.v1.inventory_pb2 import GetStockRequest, PutStockRequest
from services.inventory.v1.inventory_pb2_grpc import InventoryStub
from services.orders.v1 import orders_pb2 as pb
from services.orders.v1.orders_pb2_grpc import OrdersStub

ORDERS = 24
SHOP = "shop"
OPENING_WITH_SHOP = {**OPENING, "eve": 2_000_00, "finn": 2_000_00, SHOP: 0}
"""The accounts of the bank where the shop is; Kim's 5.00 are less than any order there of hers."""
STOCK = {"tea": 100, "cup": 100, "moon": 1}
"""Pieces in the warehouse. Of the moon, nobody wants just one."""
PRICES = {"tea": 4_50, "cup": 8_00, "moon": 1_00}
"""Cents for a piece."""

REJECTED = "REJECTED"
PATIENCE = 90.0
"""Seconds that a customer asks again for."""
PAUSE = 0.2
"""Seconds between."""
NO_PROXY = (("grpc.enable_http_proxy", 0),)


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer wants.

    Attributes:
        payment: the order's money, as a transfer from the customer to the shop; its gid is the order's id.
        sku: the article.
        quantity: pieces.
    """

    payment: Transfer
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Stock:
    """What the warehouse has of an article, in pieces."""

    available: int
    reserved: int


@dataclass(frozen=True, slots=True)
class OrderBook:
    """The sums of the shop's own book: orders in each state; pieces and cents of those that are placed."""

    pending: int
    placed: int
    rejected: int
    pieces: int
    cents: int


def orders(bank: str, gids: str = "o") -> tuple[Order, ...]:
    """All orders, of customers at a bank. Some want more than there is, and some more than they have money for."""
    made = []
    for number in range(1, ORDERS + 1):
        payer, sku, quantity = ("eve", "finn")[number % 2], ("tea", "cup")[number // 2 % 2], 1 + number % 3
        refused_with = ""
        if number % 6 == 3:
            sku, quantity, refused_with = "moon", 2, REJECTED
        elif number % 6 == 5:
            payer, quantity, refused_with = "kim", 3, REJECTED
        amount = quantity * PRICES[sku]
        payment = Transfer(f"{gids}-{number:02}", bank, payer, bank, SHOP, amount, refused_with)
        made.append(Order(payment, sku, quantity))
    return tuple(made)


class Warehouse:
    """The inventory service.

    Args:
        name: the participant's.
        folder: for its log.
        database: its url.
        options: further ones of its process.
    """

    def __init__(self, name: str, folder: Path, database: str, options: Sequence[str]) -> None:
        self.name = name
        self.fence = FenceTable(database)
        self.server = Server(name, ("services.inventory", "--name", name, "--database", database, *options), folder)

    async def put_stock(self) -> None:
        """Takes everything into stock."""
        async with grpc.aio.insecure_channel(self.server.address, NO_PROXY) as channel:
            for sku, quantity in STOCK.items():
                await InventoryStub(channel).PutStock(PutStockRequest(sku=sku, quantity=quantity))

    async def stock(self) -> Mapping[str, Stock]:
        """The present stock, by sku."""
        async with grpc.aio.insecure_channel(self.server.address, NO_PROXY) as channel:
            found = [await InventoryStub(channel).GetStock(GetStockRequest(sku=sku)) for sku in STOCK]
        return {one.sku: Stock(one.available, one.reserved) for one in found}


class Shop:
    """The orders service.

    Args:
        name: the participant's.
        folder: for its log.
        database: its url.
        options: further ones of its process.
    """

    def __init__(self, name: str, folder: Path, database: str, options: Sequence[str]) -> None:
        self.name = name
        self.fence = FenceTable(database)
        arguments = ("services.orders", "--name", name, "--database", database, "--shop", SHOP, *options)
        self.server = Server(name, arguments, folder)

    async def book(self) -> OrderBook:
        """The sums over all orders."""
        async with grpc.aio.insecure_channel(self.server.address, NO_PROXY) as channel:
            totals = await OrdersStub(channel).GetTotals(pb.GetTotalsRequest())
        return OrderBook(totals.pending, totals.placed, totals.rejected, totals.pieces, totals.cents)

    async def order(self, order: Order) -> Told:
        """Orders as a customer does: who gets no answer asks again, with the same id."""
        payment = order.payment
        asked = pb.PlaceOrderRequest(
            order_id=payment.gid,
            customer=payment.payer,
            sku=order.sku,
            quantity=order.quantity,
            unit_price=PRICES[order.sku],
        )
        last = "no answer"
        try:
            async with (
                asyncio.timeout(PATIENCE),
                grpc.aio.insecure_channel(self.server.address, NO_PROXY) as channel,
            ):
                while True:
                    try:
                        found = await OrdersStub(channel).PlaceOrder(asked, wait_for_ready=True)
                    except grpc.aio.AioRpcError as error:
                        last = f"{error.code().name} {error.details()}"
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            return Told(None, text=last)
                    else:
                        if found.state == pb.STATE_PLACED:
                            return Told(tcc.Decision.CONFIRM, text=f"{order.quantity} {order.sku}")
                        if found.state == pb.STATE_REJECTED and found.reason:  # it may come shortly after the state
                            return Told(tcc.Decision.CANCEL, REJECTED, found.reason)
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            return Told(None, text=last)
