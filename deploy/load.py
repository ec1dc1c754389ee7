"""Opens a shop and sends it orders, so that Jaeger has something to show: http://localhost:16686, service tcc-manager.

python load.py --orders orders:50063 --inventory inventory:50062 --bank accounts:50061 --count 50

Some orders are for more pieces than there are, and are rejected. Exits with 0 where every order was settled.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections import Counter
from typing import TYPE_CHECKING

import grpc.aio

from services.accounts.v1.accounts_pb2 import OpenAccountRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from services.inventory.v1.inventory_pb2 import PutStockRequest
from services.inventory.v1.inventory_pb2_grpc import InventoryStub
from services.orders.v1 import orders_pb2 as pb
from services.orders.v1.orders_pb2_grpc import OrdersStub

if TYPE_CHECKING:  # the generated code has it for type checkers alone
    from services.orders.v1.orders_pb2_grpc import OrdersAsyncStub

CALL_TIMEOUT = 40.0
"""Seconds for one call; an order that is undecided by then is asked for again."""
ATTEMPTS = 10
AT_ONCE = 8


async def main(given: argparse.Namespace) -> int:
    """The exit code."""
    async with (
        grpc.aio.insecure_channel(given.bank) as bank,
        grpc.aio.insecure_channel(given.inventory) as stock,
        grpc.aio.insecure_channel(given.orders) as shop,
    ):
        run = secrets.token_hex(3)  # so that it can be run again on the same databases
        for account, cents in ((f"customer-{run}", 100 * given.count), (given.shop, 0)):
            await AccountsStub(bank).OpenAccount(
                OpenAccountRequest(account=account, available=cents), timeout=CALL_TIMEOUT, wait_for_ready=True
            )
        await InventoryStub(stock).PutStock(
            PutStockRequest(sku=f"lamp-{run}", quantity=given.count), timeout=CALL_TIMEOUT, wait_for_ready=True
        )
        turns = asyncio.Semaphore(AT_ONCE)
        placing = OrdersStub(shop)
        states = await asyncio.gather(*(_place(placing, turns, run, number) for number in range(given.count)))
    counts = Counter(states)
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())), flush=True)
    return int(bool(set(counts) - {"PLACED", "REJECTED"}))


async def _place(shop: OrdersAsyncStub, turns: asyncio.Semaphore, run: str, number: int) -> str:
    order = pb.PlaceOrderRequest(
        order_id=f"{run}-{number}",
        customer=f"customer-{run}",
        sku=f"lamp-{run}",
        quantity=10_000 if number % 10 == 9 else 1,  # nobody has so many
        unit_price=100,
    )
    async with turns:
        for attempt in range(ATTEMPTS):
            try:
                answer = await shop.PlaceOrder(order, timeout=CALL_TIMEOUT, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                print(f"order {order.order_id}: {error.code().name} {error.details()}", flush=True)
            else:
                if answer.state != pb.STATE_PENDING:
                    return pb.State.Name(answer.state).removeprefix("STATE_")
            await asyncio.sleep(0.2 * 2 ** min(attempt, 5))
    return "PENDING"


def parser() -> argparse.ArgumentParser:
    """Reads the command line."""
    made = argparse.ArgumentParser(prog="load.py", description="Opens a shop and sends it orders.")
    made.add_argument("--orders", default="127.0.0.1:50063", help="the orders service, host:port")
    made.add_argument("--inventory", default="127.0.0.1:50062", help="the inventory service, host:port")
    made.add_argument("--bank", default="127.0.0.1:50061", help="the accounts service, host:port")
    made.add_argument("--shop", default="shop", help="the shop's account, which the orders service credits")
    made.add_argument("--count", type=int, default=50, help="so many orders")
    return made


if __name__ == "__main__":
    sys.exit(asyncio.run(main(parser().parse_args())))
