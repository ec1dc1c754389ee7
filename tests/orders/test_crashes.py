"""The orders' process is killed at each step, and started again: no order is lost, and nobody is charged twice.

After the restart nobody asks for the order again: the service goes on with it by itself. (Except where it was killed
before it had written the order down: then the customer, who has no answer, asks again.)
"""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import tcc
from services.orders.v1 import orders_pb2 as pb, orders_pb2_grpc
from tcc_server.app import ManagerApp
from tcc_server.config import Config, Participant, Retry
from tcc_server.engine.worker import Seams
from tests.faults import Fault, FaultyLog
from tests.orders.child import STEPS
from tests.orders.shop import TERMS, Books, OrdersStub, Suppliers, decided, ended, failed, lamps, suppliers
from tests.servers.process import free_port

ROOT = Path(__file__).parents[2]
QUICK = Retry(answer_timeout=0.5, answer_timeout_max=1.0, backoff_first=0.02, backoff_max=0.2, try_backoff_max=0.1)

ALWAYS = [step for step, (_, _, _, phase) in STEPS.items() if "Confirm" not in step and "Cancel" not in step]
PLACED = [*ALWAYS, *(step for step in STEPS if "Confirm" in step)]
REJECTED = [*ALWAYS, *(step for step in STEPS if "Cancel" in step)]
UNWRITTEN = "order heard, row unwritten"


class Installation:
    """A bank, a warehouse and a manager here; the orders in a process of their own, always on the same port."""

    def __init__(self, folder: Path, others: Suppliers) -> None:
        self.others = others
        self.log: FaultyLog | None = None
        self._folder = folder
        self._orders_at = f"127.0.0.1:{free_port()}"
        self._manager_at = f"127.0.0.1:{free_port()}"

    @asynccontextmanager
    async def manager(self) -> AsyncIterator[tcc.Manager]:
        """Runs the manager, and gives a client of it."""
        at = {server.describe().participants[0].name: f"127.0.0.1:{server.port}" for server in self.others.servers}
        participants = {name: Participant(endpoint=address) for name, address in at.items()}
        participants[TERMS.placement] = Participant(endpoint=self._orders_at)
        database = f"sqlite:///{self._folder}/tcc.db"
        settings = Config(listen=self._manager_at, log=database, participants=participants, retry=QUICK)
        app = ManagerApp(settings, wrap=self._wrap)
        await app.start()
        try:
            async with tcc.Manager(app.listen) as client:
                yield client
        finally:
            await app.stop()

    @asynccontextmanager
    async def orders(self, *module: str) -> AsyncIterator[tuple[Process, OrdersStub]]:
        """Runs the orders service, and gives the customers' stub."""
        arguments = ("--listen", self._orders_at, "--database", str(self._folder / "orders.db"), "--name", "orders")
        whom = ("--manager", self._manager_at, "--inventory", "inventory", "--bank", "bank", "--shop", "shop")
        command = ("-m", *(module or ("services.orders",)), *arguments, *whom)
        process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = await process.stdout.readline()
            assert line, (await process.stderr.read()).decode()
            assert line.decode().strip() == f"orders serves orders on {self._orders_at}"
            async with grpc.aio.insecure_channel(self._orders_at) as channel:
                stub: Any = orders_pb2_grpc.OrdersStub(channel)
                yield process, stub
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    def _wrap(self, seams: Seams) -> Seams:
        self.log = FaultyLog(seams.log)
        return replace(seams, log=self.log)


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    async with suppliers(tmp_path) as others:
        yield Installation(tmp_path, others)


async def check(installation: Installation, manager: tcc.Manager, orders: OrdersStub, quantity: int) -> None:
    """The order ends by itself as it must, the sums are right, and asking again changes nothing."""
    placed = quantity == 2
    order = await decided(orders)
    assert order.state == (pb.STATE_PLACED if placed else pb.STATE_REJECTED)
    await ended(manager, "o-1")
    assert await installation.others.books() == Books.after(sold=2 if placed else 0)
    assert await orders.PlaceOrder(lamps(quantity)) == order
    assert await installation.others.books() == Books.after(sold=2 if placed else 0)


@pytest.mark.parametrize(
    ("step", "quantity"), [*((step, 2) for step in PLACED), *((step, 11) for step in REJECTED)], ids=str
)
async def test_an_order_survives_a_kill(installation: Installation, step: str, quantity: int) -> None:
    async with installation.manager() as manager:
        async with installation.orders("tests.orders.child", step) as (process, orders):
            order = asyncio.ensure_future(orders.PlaceOrder(lamps(quantity)))
            assert await process.wait() == -signal.SIGKILL
            await asyncio.wait([order])  # answered or not: it may have been told just before
            assert order.exception() is None or isinstance(order.exception(), grpc.aio.AioRpcError)
        async with installation.orders() as (_, orders):
            if step == UNWRITTEN:
                code, _ = await failed(orders.GetOrder(pb.GetOrderRequest(order_id="o-1")))
                assert code is grpc.StatusCode.NOT_FOUND
                assert await installation.others.books() == Books.after(sold=0)
                await orders.PlaceOrder(lamps(quantity))
            await check(installation, manager, orders, quantity)


@pytest.mark.parametrize(
    ("unwritten", "held"),
    [("begin", Fault.HELD), ("decision", Fault.HELD), ("answer", Fault.HELD_AFTER)],
    ids=["Execute taken, not begun", "all reserved, not decided", "decided, unanswered"],
)
async def test_an_order_survives_a_kill_while_the_manager_is_at_work(
    installation: Installation, unwritten: str, held: Fault
) -> None:
    async with installation.manager() as manager:
        assert installation.log is not None
        installation.log.plan(*([] if unwritten == "begin" else [Fault.NONE]), held)
        async with installation.orders() as (process, orders):
            order = asyncio.ensure_future(orders.PlaceOrder(lamps(2)))
            await installation.log.until_held()
            process.kill()
            await process.wait()
            await asyncio.wait([order])
            assert isinstance(order.exception(), grpc.aio.AioRpcError)
        installation.log.release()
        async with installation.orders() as (_, orders):
            await check(installation, manager, orders, 2)


async def test_an_order_that_was_taken_while_there_was_no_manager_survives_a_kill(installation: Installation) -> None:
    async with installation.orders() as (process, orders):
        code, text = await failed(orders.PlaceOrder(lamps(2)))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "order o-1 is taken and PENDING" in text
        process.kill()
        await process.wait()
    async with installation.manager() as manager, installation.orders() as (_, orders):
        await check(installation, manager, orders, 2)


async def test_an_order_survives_a_restart_of_the_manager_while_it_is_pending(installation: Installation) -> None:
    async with installation.orders() as (process, orders):
        await failed(orders.PlaceOrder(lamps(2)))
        async with installation.manager() as manager:
            await check(installation, manager, orders, 2)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
