"""A shop in the test's process: a bank, a warehouse and the orders, each on its own database, and a manager.

Ann has 1000 cents, the shop has none, and there are 10 lamps; a lamp costs 30 cents.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest

import tcc
import tcc.testing
from services._database import opened
from services.accounts import _database as accounts_database
from services.accounts._service import Accounts
from services.accounts.v1 import accounts_pb2, accounts_pb2_grpc
from services.inventory import _database as inventory_database
from services.inventory._service import Inventory
from services.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from services.orders import _book
from services.orders._book import Book, Terms
from services.orders._placing import Placing
from services.orders._service import Orders, Placement
from services.orders.v1 import orders_pb2 as pb, orders_pb2_grpc

MONEY, LAMPS, PRICE = 1000, 10, 30
TERMS = Terms(placement="orders", inventory="inventory", bank="bank", shop="shop")
OrdersStub: TypeAlias = "orders_pb2_grpc.OrdersAsyncStub"  # for type checkers only


@dataclass(frozen=True)
class Books:
    """What there is: of ann and the shop the cents, of lamps the pieces; and what is reserved of both."""

    ann: int
    shop: int
    lamps: int
    reserved: tuple[int, int] = (0, 0)

    @classmethod
    def after(cls, sold: int) -> Books:
        """What there must be when so many lamps are sold."""
        return cls(ann=MONEY - sold * PRICE, shop=sold * PRICE, lamps=LAMPS - sold)


class Suppliers:
    """The bank and the warehouse.

    Attributes:
        servers: both; a manager in this process can call them, and they serve by gRPC.
    """

    def __init__(self, bank: accounts_pb2_grpc.AccountsAsyncStub, stock: inventory_pb2_grpc.InventoryAsyncStub) -> None:
        self.bank = bank
        self.stock = stock
        self.servers: Sequence[tcc.ParticipantServer] = ()

    async def books(self) -> Books:
        """The present ones."""
        ann, shop = [
            await self.bank.GetAccount(accounts_pb2.GetAccountRequest(account=account)) for account in ("ann", "shop")
        ]
        lamps = await self.stock.GetStock(inventory_pb2.GetStockRequest(sku="lamp"))
        return Books(ann.available, shop.available, lamps.available, (ann.reserved + shop.reserved, lamps.reserved))


@dataclass
class Shop:
    """What tests use of a shop.

    Attributes:
        orders: the customers' stub.
        server: the orders' server.
        book: the order book.
    """

    suppliers: Suppliers
    manager: tcc.Manager
    orders: OrdersStub
    server: tcc.ParticipantServer
    book: Book

    async def get(self, order_id: str) -> pb.Order:
        """One order as a customer sees it."""
        return await self.orders.GetOrder(pb.GetOrderRequest(order_id=order_id))

    async def books(self, order_id: str) -> Books:
        """What there is when the order's transaction has ended."""
        await ended(self.manager, order_id)
        return await self.suppliers.books()


@asynccontextmanager
async def suppliers(folder: Path) -> AsyncIterator[Suppliers]:
    """A bank and a warehouse that serve."""
    async with AsyncExitStack() as stack:
        bank_fence = await stack.enter_async_context(opened(str(folder / "bank.db"), accounts_database.METADATA))
        stock_fence = await stack.enter_async_context(opened(str(folder / "stock.db"), inventory_database.METADATA))
        bank_server = tcc.ParticipantServer("127.0.0.1:0", fence=bank_fence, name=TERMS.bank)
        stock_server = tcc.ParticipantServer("127.0.0.1:0", fence=stock_fence, name=TERMS.inventory)
        accounts_pb2_grpc.add_AccountsServicer_to_server(Accounts(bank_fence), bank_server)
        inventory_pb2_grpc.add_InventoryServicer_to_server(Inventory(stock_fence), stock_server)
        bank: Any = accounts_pb2_grpc.AccountsStub(await _served(bank_server, stack))
        stock: Any = inventory_pb2_grpc.InventoryStub(await _served(stock_server, stack))
        await bank.OpenAccount(accounts_pb2.OpenAccountRequest(account="ann", available=MONEY))
        await bank.OpenAccount(accounts_pb2.OpenAccountRequest(account="shop", available=0))
        await stock.PutStock(inventory_pb2.PutStockRequest(sku="lamp", quantity=LAMPS))
        made = Suppliers(bank, stock)
        made.servers = (bank_server, stock_server)
        yield made


@asynccontextmanager
async def open_shop(
    folder: Path,
    database: str,
    *,
    placement: Callable[[tcc.SqlFence], Placement] = Placement,
    through: Callable[[tcc.Manager], Any] = lambda manager: manager,
    terms: Terms = TERMS,
) -> AsyncIterator[Shop]:
    """A shop with everything in this process.

    Args:
        placement: makes the orders' own participant.
        through: what stands between the orders and the manager.
    """
    async with AsyncExitStack() as stack:
        others = await stack.enter_async_context(suppliers(folder))
        fence = await stack.enter_async_context(opened(database, _book.METADATA))
        server = tcc.ParticipantServer("127.0.0.1:0", fence=fence, name=TERMS.placement)
        orders_pb2_grpc.add_PlacementServicer_to_server(placement(fence), server)
        manager = await stack.enter_async_context(tcc.testing.manager(*others.servers, server))
        book = Book(fence)
        placing = await stack.enter_async_context(Placing(book, through(manager), first=0.01, longest=0.05))
        orders_pb2_grpc.add_OrdersServicer_to_server(Orders(book, placing, terms), server)
        stub: Any = orders_pb2_grpc.OrdersStub(await _served(server, stack))
        yield Shop(others, manager, stub, server, book)


async def _served(server: tcc.ParticipantServer, stack: AsyncExitStack) -> grpc.aio.Channel:
    await server.start()
    stack.push_async_callback(server.stop, None)
    return await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.port}"))


def lamps(quantity: int, order_id: str = "o-1", **other: Any) -> pb.PlaceOrderRequest:
    """Ann's order of lamps."""
    content = {"customer": "ann", "sku": "lamp", "quantity": quantity, "unit_price": PRICE, **other}
    return pb.PlaceOrderRequest(order_id=order_id, **content)


async def failed(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """The status of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details() or ""


async def decided(orders: OrdersStub, order_id: str = "o-1") -> pb.Order:
    """The order once it is PLACED, or REJECTED with its reason; nobody but the service itself works on it."""
    async with asyncio.timeout(30):
        while True:
            order = await orders.GetOrder(pb.GetOrderRequest(order_id=order_id), wait_for_ready=True)
            if order.state == pb.STATE_PLACED or (order.state == pb.STATE_REJECTED and order.reason):
                return order
            await asyncio.sleep(0.01)


async def ended(manager: tcc.Manager, gid: str) -> tcc.TransactionView:
    """The transaction once it is final."""
    async for view in manager.watch(gid):
        if view.state.is_final:
            return view
    return await manager.get(gid)
