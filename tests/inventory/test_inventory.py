"""The warehouse's promises: pieces are set aside, put back or gone, and the sums never lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest

import tcc
import tcc.testing
from services._database import opened
from services.inventory._database import METADATA
from services.inventory._service import Inventory
from services.inventory.v1 import inventory_pb2 as pb, inventory_pb2_grpc
from tests.accounts.bank import metadata

Stub: TypeAlias = "inventory_pb2_grpc.InventoryAsyncStub"  # for type checkers only
THREE = pb.ReserveRequest(sku="lamp", quantity=3)


class Warehouse:
    """A warehouse with 10 lamps: directly, and through a manager."""

    def __init__(self, stub: Stub, manager: tcc.Manager) -> None:
        self.stub = stub
        self.manager = manager

    async def reserve(self, sku: str, quantity: int, gid: str | None = None) -> pb.ReserveReply:
        """A transaction of one branch, once it has ended."""
        call: Any = inventory_pb2_grpc.InventoryStub(tcc.plan).TryReserve(pb.ReserveRequest(sku=sku, quantity=quantity))
        done = await self.manager.execute(call, gid=gid, wait=tcc.COMPLETED)
        reply: pb.ReserveReply = done.replies[0]
        return reply

    async def lamps(self) -> tuple[int, int]:
        """Available and reserved."""
        stock = await self.stub.GetStock(pb.GetStockRequest(sku="lamp"))
        return stock.available, stock.reserved


@pytest.fixture
async def warehouse(database: str) -> AsyncIterator[Warehouse]:
    async with opened(database, METADATA) as fence:
        server = tcc.ParticipantServer("127.0.0.1:0", fence=fence)
        inventory_pb2_grpc.add_InventoryServicer_to_server(Inventory(fence), server)
        await server.start()
        async with (
            tcc.testing.manager(server) as manager,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            stub: Any = inventory_pb2_grpc.InventoryStub(channel)
            await stub.PutStock(pb.PutStockRequest(sku="lamp", quantity=10))
            yield Warehouse(stub, manager)
        await server.stop(None)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details() or ""


async def test_reserved_pieces_are_set_aside_and_then_leave(warehouse: Warehouse) -> None:
    reply = await warehouse.stub.TryReserve(THREE, metadata=metadata("t-1", "try"))
    assert (reply.reservation_id, reply.available) == ("t-1/0", 7)
    assert await warehouse.lamps() == (7, 3)

    await warehouse.stub.ConfirmReserve(THREE, metadata=metadata("t-1", "confirm"))
    assert await warehouse.lamps() == (7, 0)


async def test_pieces_of_a_cancelled_reservation_can_be_sold_again(warehouse: Warehouse) -> None:
    await warehouse.stub.TryReserve(THREE, metadata=metadata("t-1", "try"))
    await warehouse.stub.CancelReserve(THREE, metadata=metadata("t-1", "cancel"))
    assert await warehouse.lamps() == (10, 0)


@pytest.mark.parametrize(
    ("sku", "quantity", "code", "text"),
    [
        ("lamp", 11, grpc.StatusCode.FAILED_PRECONDITION, "lamp is out of stock: 10 left, 11 wanted"),
        ("desk", 1, grpc.StatusCode.NOT_FOUND, "there is no sku desk"),
        ("lamp", 0, grpc.StatusCode.INVALID_ARGUMENT, "a quantity must be positive, not 0"),
        ("lamp", -3, grpc.StatusCode.INVALID_ARGUMENT, "a quantity must be positive, not -3"),
    ],
)
async def test_what_cannot_be_reserved_is_refused_and_nothing_is_held(
    warehouse: Warehouse, sku: str, quantity: int, code: grpc.StatusCode, text: str
) -> None:
    with pytest.raises(tcc.TransactionCancelled) as cancelled:
        await warehouse.reserve(sku, quantity)
    (refusal,) = cancelled.value.refusals
    assert (refusal.code(), refusal.details(), refusal.marked) == (code, text, True)
    assert await warehouse.lamps() == (10, 0)


async def test_no_piece_is_sold_twice_however_many_want_the_last(warehouse: Warehouse) -> None:
    ends = await asyncio.gather(*(warehouse.reserve("lamp", 3) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(end, pb.ReserveReply) for end in ends) == 3
    assert sum(isinstance(end, tcc.TransactionCancelled) for end in ends) == 9
    assert await warehouse.lamps() == (1, 0)


async def test_all_pieces_can_be_sold(warehouse: Warehouse) -> None:
    assert (await warehouse.reserve("lamp", 10)).available == 0
    assert await warehouse.lamps() == (0, 0)


async def test_a_transaction_that_is_repeated_sells_once(warehouse: Warehouse) -> None:
    for _ in range(2):
        assert (await warehouse.reserve("lamp", 3, gid="t-1")).available == 7
    assert await warehouse.lamps() == (7, 0)


async def test_putting_in_the_same_stock_again_changes_nothing(warehouse: Warehouse) -> None:
    await warehouse.reserve("lamp", 3)
    again = await warehouse.stub.PutStock(pb.PutStockRequest(sku="lamp", quantity=10))
    assert (again.available, again.reserved) == (7, 0)

    code, text = await refused(warehouse.stub.PutStock(pb.PutStockRequest(sku="lamp", quantity=4)))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert "came in with 10 pieces, not 4" in text


@pytest.mark.parametrize(("sku", "quantity"), [("", 1), ("x" * 65, 1), ("desk", -1)])
async def test_stock_that_cannot_be_is_refused(warehouse: Warehouse, sku: str, quantity: int) -> None:
    code, _ = await refused(warehouse.stub.PutStock(pb.PutStockRequest(sku=sku, quantity=quantity)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_sku_is_not_found(warehouse: Warehouse) -> None:
    code, text = await refused(warehouse.stub.GetStock(pb.GetStockRequest(sku="desk")))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, "there is no sku desk")


async def test_totals_are_the_sums(warehouse: Warehouse) -> None:
    await warehouse.stub.PutStock(pb.PutStockRequest(sku="desk", quantity=2**40))
    await warehouse.stub.TryReserve(THREE, metadata=metadata("t-1", "try"))
    assert await warehouse.stub.GetTotals(pb.GetTotalsRequest()) == pb.Totals(skus=2, available=2**40 + 7, reserved=3)
