"""What a customer sees: an order is placed with its stock and money, or rejected with neither, however often asked."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

import tcc
from services.accounts.v1.accounts_pb2 import DebitRequest, OpenAccountRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from services.orders._book import Wish
from services.orders.v1 import orders_pb2 as pb
from services.orders.v1.orders_pb2_grpc import PlacementStub
from tests.orders.shop import PRICE, TERMS, Books, Shop, failed, lamps

Code = grpc.StatusCode


async def test_an_order_is_placed_and_takes_its_pieces_and_its_money(shop: Shop) -> None:
    order = await shop.orders.PlaceOrder(lamps(2))
    assert (order.state, order.reason) == (pb.STATE_PLACED, "")
    assert (order.order_id, order.customer, order.sku, order.quantity, order.unit_price) == (
        "o-1",
        "ann",
        "lamp",
        2,
        30,
    )
    assert await shop.books("o-1") == Books.after(sold=2)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (lamps(11), "inventory: lamp is out of stock: 10 left, 11 wanted"),
        (lamps(2, unit_price=501), "bank: account ann has less than 1002 cents available"),
        (lamps(2, sku="desk"), "inventory: there is no sku desk"),
        (lamps(2, customer="bob"), "bank: there is no account bob"),
    ],
)
async def test_an_order_that_cannot_be_is_rejected_with_the_reason(
    shop: Shop, request_: pb.PlaceOrderRequest, reason: str
) -> None:
    order = await shop.orders.PlaceOrder(request_)
    assert (order.state, order.reason) == (pb.STATE_REJECTED, reason)
    assert await shop.get("o-1") == order
    assert await shop.books("o-1") == Books.after(sold=0)


async def test_a_rejected_order_stays_rejected_when_it_could_be_placed_now(shop: Shop) -> None:
    first = await shop.orders.PlaceOrder(lamps(2, customer="bob"))
    await shop.suppliers.bank.OpenAccount(OpenAccountRequest(account="bob", available=1000))
    assert await shop.orders.PlaceOrder(lamps(2, customer="bob")) == first
    assert (await shop.orders.PlaceOrder(lamps(2, "o-2", customer="bob"))).state == pb.STATE_PLACED


async def test_an_order_that_is_repeated_is_answered_the_same_and_bought_once(shop: Shop) -> None:
    first = await shop.orders.PlaceOrder(lamps(2))
    assert await shop.orders.PlaceOrder(lamps(2)) == first
    assert await shop.books("o-1") == Books.after(sold=2)


async def test_an_order_that_is_sent_many_times_at_once_is_bought_once(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.orders.PlaceOrder(lamps(2)) for _ in range(10)))
    assert [answer.state for answer in answers] == [pb.STATE_PLACED] * 10
    assert await shop.books("o-1") == Books.after(sold=2)


@pytest.mark.parametrize("other", [{"customer": "bob"}, {"sku": "desk"}, {"unit_price": 31}, {"quantity": 3}])
async def test_an_id_that_is_used_again_for_something_else_is_an_error(shop: Shop, other: dict[str, Any]) -> None:
    first = await shop.orders.PlaceOrder(lamps(2))
    code, text = await failed(shop.orders.PlaceOrder(lamps(**{"quantity": 2, **other})))
    assert code is Code.ALREADY_EXISTS
    assert "order o-1 was taken with other content" in text
    assert await shop.get("o-1") == first
    assert await shop.books("o-1") == Books.after(sold=2)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (lamps(2, ""), "order_id"),
        (lamps(2, "o/1"), "order_id"),
        (lamps(2, "o" * 65), "order_id"),
        (lamps(2, customer=""), "customer"),
        (lamps(2, customer="x" * 65), "customer"),
        (lamps(2, sku=""), "sku"),
        (lamps(0), "quantity"),
        (lamps(-1), "quantity"),
        (lamps(2, unit_price=0), "unit_price"),
        (lamps(2**62, unit_price=2**62), "cost"),
    ],
)
async def test_an_order_that_makes_no_sense_is_not_taken(shop: Shop, request_: pb.PlaceOrderRequest, text: str) -> None:
    code, details = await failed(shop.orders.PlaceOrder(request_))
    assert code is Code.INVALID_ARGUMENT
    assert text in details
    assert (await failed(shop.get(request_.order_id)))[0] is Code.NOT_FOUND


async def test_no_lamp_is_sold_twice_however_many_want_the_last(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.orders.PlaceOrder(lamps(3, f"o-{number}")) for number in range(12)))
    assert sum(answer.state == pb.STATE_PLACED for answer in answers) == 3
    assert sum(answer.state == pb.STATE_REJECTED for answer in answers) == 9
    for number in range(12):
        await shop.books(f"o-{number}")
    assert await shop.suppliers.books() == Books.after(sold=9)
    totals = await shop.orders.GetTotals(pb.GetTotalsRequest())
    assert totals == pb.Totals(placed=3, rejected=9, pieces=9, cents=270)


async def test_ids_that_begin_alike_do_not_touch(shop: Shop) -> None:
    for order_id, quantity in (("o-1", 1), ("o-10", 2), ("o", 3)):
        assert (await shop.orders.PlaceOrder(lamps(quantity, order_id))).state == pb.STATE_PLACED
    for order_id in ("o-1", "o-10", "o"):
        await shop.books(order_id)
    assert await shop.suppliers.books() == Books.after(sold=6)


async def test_an_id_that_another_transaction_has_rejects_the_order_and_charges_nobody(shop: Shop) -> None:
    bank = AccountsStub(tcc.plan.participant("bank"))
    await shop.manager.execute(bank.TryDebit(DebitRequest(account="ann", amount=1)), gid="o-1", wait=tcc.COMPLETED)
    order = await shop.orders.PlaceOrder(lamps(2))
    assert order.state == pb.STATE_REJECTED
    assert "gid o-1 is in use by another transaction" in order.reason
    assert await shop.suppliers.books() == Books(ann=999, shop=0, lamps=10)


async def test_an_order_whose_transaction_was_planned_otherwise_follows_its_decision(shop: Shop) -> None:
    """As after an update of the service that changed its plan, while an order was PENDING."""
    await shop.book.take(Wish("o-1", "ann", "lamp", 2, PRICE), TERMS)
    placement, bank = PlacementStub(tcc.plan.participant("orders")), AccountsStub(tcc.plan.participant("bank"))
    with pytest.raises(tcc.TransactionCancelled):
        await shop.manager.execute(
            placement.TryPlace(pb.PlaceRequest(order_id="o-1")),
            bank.TryDebit(DebitRequest(account="ann", amount=5000)),
            gid="o-1",
        )
    assert (await shop.orders.PlaceOrder(lamps(2))).state == pb.STATE_REJECTED
    assert await shop.books("o-1") == Books.after(sold=0)


async def test_a_transaction_of_another_gid_cannot_place_an_order(shop: Shop) -> None:
    assert (await shop.orders.PlaceOrder(lamps(11))).state == pb.STATE_REJECTED
    placement = PlacementStub(tcc.plan.participant("orders"))
    for order_id, gid, code in (
        ("o-1", "free-of-charge", Code.INVALID_ARGUMENT),
        ("o-2", "o-2", Code.NOT_FOUND),
    ):
        with pytest.raises(tcc.TransactionCancelled) as cancelled:
            await shop.manager.execute(placement.TryPlace(pb.PlaceRequest(order_id=order_id)), gid=gid)
        assert cancelled.value.refusals[0].code() is code
    assert (await shop.get("o-1")).state == pb.STATE_REJECTED
