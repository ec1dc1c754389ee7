"""An order that is PENDING is gone on with by the service itself: it is decided, charged once, whatever was lost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import tcc
from services._database import opened
from services.orders import _book
from services.orders._book import Book, Wish
from services.orders._placing import Placing
from services.orders._service import Placement
from services.orders.v1 import orders_pb2 as pb
from tests.orders.shop import PRICE, TERMS, Books, Shop, decided, ended, failed, lamps, open_shop
from tests.servers.process import free_port

Code = grpc.StatusCode
WISH = Wish("o-1", "ann", "lamp", 2, PRICE)


class Losing:
    """A manager whose answers to the next executions are lost: each was carried out, and ends with this error.

    Attributes:
        executed: how many were asked for.
    """

    def __init__(self, manager: tcc.Manager, errors: Iterable[tcc.TccError]) -> None:
        self._manager = manager
        self._errors = deque(errors)
        self.get = manager.get
        self.executed = 0

    async def execute(self, *calls: Any, name: str, gid: str) -> object:
        self.executed += 1
        done, error = None, None
        try:
            done = await self._manager.execute(*calls, name=name, gid=gid)
        except tcc.TransactionCancelled as cancelled:
            error = cancelled
        if self._errors:
            await ended(self._manager, gid)
            raise self._errors.popleft()
        if error is not None:
            raise error
        return done


@asynccontextmanager
async def losing(folder: Path, *errors: tcc.TccError, **options: Any) -> AsyncIterator[tuple[Shop, Losing]]:
    made: list[Losing] = []

    def through(manager: tcc.Manager) -> Losing:
        made.append(Losing(manager, errors))
        return made[0]

    async with open_shop(folder, str(folder / "orders.db"), through=through, **options) as shop:
        yield shop, made[0]


class Deaf(Placement):
    """An own branch whose Confirm fails until it hears again."""

    hears = asyncio.Event()

    async def ConfirmPlace(self, request: pb.PlaceRequest, context: Any) -> Any:
        if not self.hears.is_set():
            raise RuntimeError("planned")
        return await super().ConfirmPlace(request, context)


LOST = [
    tcc.OutcomeUnknown("o-1"),
    tcc.ManagerUnavailable("away"),
    tcc.ManagerError(Code.INVALID_ARGUMENT, "the manager does not know the bank"),
]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("quantity", [2, 11])
async def test_an_answer_that_was_lost_is_asked_for_again_until_it_comes(
    tmp_path: Path, error: tcc.TccError, quantity: int
) -> None:
    async with losing(tmp_path, error, error, error) as (shop, _):
        with suppress(grpc.aio.AioRpcError):
            await shop.orders.PlaceOrder(lamps(quantity))
        order = await decided(shop.orders)
        placed = quantity == 2
        assert (order.state, bool(order.reason)) == ((pb.STATE_PLACED, False) if placed else (pb.STATE_REJECTED, True))
        assert await shop.orders.PlaceOrder(lamps(quantity)) == order
        assert await shop.books("o-1") == Books.after(sold=2 if placed else 0)


async def test_the_answer_alone_settles_an_order_so_that_it_can_be_read_at_once(tmp_path: Path) -> None:
    async with open_shop(tmp_path, str(tmp_path / "orders.db"), placement=Deaf) as shop:
        assert (await shop.orders.PlaceOrder(lamps(2))).state == pb.STATE_PLACED
        assert (await shop.get("o-1")).state == pb.STATE_PLACED
        Deaf.hears.set()
        assert await shop.books("o-1") == Books.after(sold=2)


async def test_the_own_branch_alone_places_an_order_when_no_answer_ever_comes(tmp_path: Path) -> None:
    async with losing(tmp_path, *[tcc.OutcomeUnknown("o-1")] * 1000) as (shop, _):
        assert (await shop.orders.PlaceOrder(lamps(2))).state == pb.STATE_PLACED
        assert await shop.suppliers.books() == Books.after(sold=2)


async def test_while_nothing_is_known_the_customer_hears_that_the_order_is_taken_and_goes_on(tmp_path: Path) -> None:
    class NotHere:
        """A manager that nobody reaches, until somebody does."""

        def __init__(self, manager: tcc.Manager) -> None:
            self._real, self.get = manager, manager.get
            self._away = tcc.Manager(f"127.0.0.1:{free_port()}", connect_timeout=0.05)
            self.is_there = asyncio.Event()

        async def execute(self, *calls: Any, name: str, gid: str) -> object:
            manager = self._real if self.is_there.is_set() else self._away
            return await manager.execute(*calls, name=name, gid=gid)

        async def close(self) -> None:
            await self._away.close()

    made: list[NotHere] = []

    def through(manager: tcc.Manager) -> NotHere:
        made.append(NotHere(manager))
        return made[0]

    async with open_shop(tmp_path, str(tmp_path / "orders.db"), through=through) as shop:
        for _ in range(2):
            code, text = await failed(shop.orders.PlaceOrder(lamps(2)))
            assert code is Code.UNAVAILABLE
            assert "order o-1 is taken and PENDING" in text
            assert "no connection to the manager" in text
        order = await shop.get("o-1")
        assert (order.state, order.reason) == (pb.STATE_PENDING, "")
        assert (await shop.orders.GetTotals(pb.GetTotalsRequest())).pending == 1

        made[0].is_there.set()
        assert (await decided(shop.orders)).state == pb.STATE_PLACED
        assert await shop.books("o-1") == Books.after(sold=2)
        await made[0].close()


async def test_an_order_goes_on_when_its_customer_goes_away(tmp_path: Path) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    class Slow(Losing):
        async def execute(self, *calls: Any, name: str, gid: str) -> object:
            asked.set()
            await gone.wait()
            return await super().execute(*calls, name=name, gid=gid)

    async with open_shop(tmp_path, str(tmp_path / "orders.db"), through=lambda manager: Slow(manager, ())) as shop:
        call = shop.orders.PlaceOrder(lamps(11))
        await asked.wait()
        call.cancel()
        assert (await shop.get("o-1")).state == pb.STATE_PENDING  # on the same connection: the cancel was there before
        gone.set()
        order = await decided(shop.orders)
        assert (order.state, order.reason) == (
            pb.STATE_REJECTED,
            "inventory: lamp is out of stock: 10 left, 11 wanted",
        )


async def test_an_order_keeps_its_terms_when_the_service_starts_with_others(tmp_path: Path) -> None:
    """Its bank and shop are in its row: what is resumed is the transaction that was begun, never another."""
    database = str(tmp_path / "orders.db")
    async with opened(database, _book.METADATA) as fence:
        await Book(fence).take(WISH, TERMS)
    async with open_shop(tmp_path, database, terms=replace(TERMS, bank="bank-b", shop="")) as shop:
        assert (await decided(shop.orders)).state == pb.STATE_PLACED
        assert await shop.books("o-1") == Books.after(sold=2)


async def test_without_an_account_of_the_shop_the_money_only_leaves_the_customer(tmp_path: Path) -> None:
    async with open_shop(tmp_path, str(tmp_path / "orders.db"), terms=replace(TERMS, shop="")) as shop:
        assert (await shop.orders.PlaceOrder(lamps(2))).state == pb.STATE_PLACED
        assert await shop.books("o-1") == Books(ann=940, shop=0, lamps=8)


@pytest.mark.parametrize(("quantity", "state"), [(2, pb.STATE_PLACED), (11, pb.STATE_REJECTED)])
async def test_a_mixed_transaction_settles_the_order_by_its_decision_and_calls_for_a_person(
    tmp_path: Path, quantity: int, state: pb.State.ValueType
) -> None:
    async with losing(tmp_path, tcc.TransactionMixed("o-1")) as (shop, _):
        order = await shop.orders.PlaceOrder(lamps(quantity))
        assert order.state == state
        if quantity == 11:
            assert "transaction o-1 is MIXED" in order.reason
        else:
            assert await shop.books("o-1") == Books.after(sold=2)


async def test_all_that_is_pending_at_the_start_is_resumed_and_one_that_cannot_end_delays_no_other(
    tmp_path: Path,
) -> None:
    database = str(tmp_path / "orders.db")
    async with opened(database, _book.METADATA) as fence:
        book = Book(fence)
        for number in range(40):
            await book.take(replace(WISH, order_id=f"a-{number}"), replace(TERMS, bank="unheard-of"))
        await book.take(replace(WISH, order_id="b-1"), TERMS)
    async with open_shop(tmp_path, database) as shop:
        assert (await decided(shop.orders, "b-1")).state == pb.STATE_PLACED
        assert await shop.books("b-1") == Books.after(sold=2)
        assert (await shop.get("a-1")).state == pb.STATE_PENDING


async def test_resuming_outlives_a_database_that_fails(tmp_path: Path) -> None:
    class Failing(Book):
        failures = 3

        async def unsettled(self, after: str, limit: int) -> list[_book.Order]:
            if self.failures:
                self.failures -= 1
                raise OSError("planned")
            return await super().unsettled(after, limit)

    async with open_shop(tmp_path, str(tmp_path / "orders.db")) as shop:
        await shop.book.take(WISH, TERMS)
        async with Placing(Failing(shop.book._fence), shop.manager, first=0.001):
            assert (await decided(shop.orders)).state == pb.STATE_PLACED
