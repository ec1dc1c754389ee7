"""The proof on the whole stack can fail: each kind of harm to stock, book and servers, made up, is found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import tcc
from services.demo._banks import Books
from services.demo._proof import BankKill, Check, Found, ManagerKill
from services.demo._transfers import Told, Transfer
from services.demo.full._proof import BrokerOutage, FullFacts, LockLoss, ShopKill, prove_full
from services.demo.full._shop import OPENING_WITH_SHOP, ORDERS, PRICES, STOCK, Order, OrderBook, Stock, orders

PAID = Transfer("t-1", "bank-a", "ann", "bank-b", "ben", 30, "")
TEA = Order(Transfer("o-1", "bank-a", "eve", "bank-a", "shop", 9, ""), "tea", 3)
CUP = Order(Transfer("o-2", "bank-a", "eve", "bank-a", "shop", 8, ""), "cup", 2)
MOON = Order(Transfer("o-3", "bank-a", "eve", "bank-a", "shop", 2, "REJECTED"), "moon", 2)

CONFIRMED = Found(tcc.State.CONFIRMED, tcc.Decision.CONFIRM, attention=False)
CANCELLED = Found(tcc.State.CANCELLED, tcc.Decision.CANCEL, attention=False)

GOOD = FullFacts(
    transfers=(PAID, TEA.payment, CUP.payment, MOON.payment),
    told={
        "t-1": Told(tcc.Decision.CONFIRM),
        "o-1": Told(tcc.Decision.CONFIRM),
        "o-2": Told(tcc.Decision.CONFIRM),
        "o-3": Told(tcc.Decision.CANCEL, "REJECTED", "moon is out of stock"),
    },
    found={"t-1": CONFIRMED, "o-1": CONFIRMED, "o-2": CONFIRMED, "o-3": CANCELLED},
    left_open=(),
    before={"bank-a": Books({"ann": 100, "eve": 50, "shop": 0}, 150, 0, 0), "bank-b": Books({"ben": 100}, 100, 0, 0)},
    after={"bank-a": Books({"ann": 70, "eve": 33, "shop": 17}, 120, 0, 0), "bank-b": Books({"ben": 130}, 130, 0, 0)},
    bank_kill=BankKill("t-1", "bank-a", -9, "TRIED", tcc.Decision.CONFIRM, settled=False),
    manager_kill=ManagerKill(("t-1", "o-1", "o-2"), (), -9),
    orders=(TEA, CUP, MOON),
    stock_before={"tea": Stock(10, 0), "cup": Stock(10, 0), "moon": Stock(1, 0)},
    stock_after={"tea": Stock(7, 0), "cup": Stock(8, 0), "moon": Stock(1, 0)},
    book=OrderBook(pending=0, placed=2, rejected=1, pieces=5, cents=17),
    tried={"inventory": 0, "orders": 0},
    shop_kill=ShopKill(("o-1", "o-2"), (), -9),
    broker_outage=BrokerOutage(1, ("o-2",)),
    lock_loss=LockLoss(100, 7),
)

PIECES = "no piece was lost, made, or sold twice"
ASIDE = "no piece is left reserved"
BOOK = "the shop's book says what its customers were told"
SHOP = "the shop was killed with orders under way"
BROKER = "RabbitMQ was restarted with commands waiting in it"
LOCKS = "Redis was flushed with work under way"


def with_stock(sku: str, stock: Stock) -> Callable[[FullFacts], FullFacts]:
    return lambda facts: replace(facts, stock_after={**facts.stock_after, sku: stock})


def with_book(**changes: int) -> Callable[[FullFacts], FullFacts]:
    return lambda facts: replace(facts, book=replace(facts.book, **changes))


def with_shop_kill(**changes: object) -> Callable[[FullFacts], FullFacts]:
    return lambda facts: replace(facts, shop_kill=replace(facts.shop_kill, **changes))  # type: ignore[arg-type]  # fields by name


def broken(checks: list[Check]) -> set[str]:
    return {check.claim for check in checks if not check.holds}


def test_what_went_well_holds() -> None:
    checks = prove_full(GOOD)
    assert broken(checks) == set()
    assert {check.claim for check in checks} >= {PIECES, ASIDE, BOOK, SHOP, BROKER, LOCKS}


def test_what_was_left_out_is_not_claimed() -> None:
    claims = {check.claim for check in prove_full(replace(GOOD, broker_outage=None, lock_loss=None))}
    assert not claims & {BROKER, LOCKS}


HARM = {
    "a piece is lost": (with_stock("tea", Stock(6, 0)), {PIECES}, "there are 6 tea and should be 7"),
    "a piece is sold twice": (with_stock("cup", Stock(9, 0)), {PIECES}, "there are 9 cup and should be 8"),
    "a piece left for nothing": (with_stock("moon", Stock(0, 0)), {PIECES}, "there are 0 moon and should be 1"),
    "the sum is right, but not of each": (
        lambda facts: with_stock("tea", Stock(8, 0))(with_stock("cup", Stock(7, 0))(facts)),
        {PIECES},
        "there are 8 tea and should be 7",
    ),
    "a piece is left reserved": (with_stock("tea", Stock(6, 1)), {ASIDE}, "1 tea are kept aside"),
    "the warehouse's fence is left with a reservation": (
        lambda facts: replace(facts, tried={**facts.tried, "inventory": 1}),
        {ASIDE},
        "the fence of inventory holds 1",
    ),
    "the shop's fence is left with a reservation": (
        lambda facts: replace(facts, tried={**facts.tried, "orders": 2}),
        {ASIDE},
        "the fence of orders holds 2",
    ),
    "an order is left pending": (with_book(pending=1, placed=1), {BOOK}, "1 orders are pending"),
    "an order is placed that was rejected": (with_book(placed=3, rejected=0), {BOOK}, "it says 3 placed, 0 rejected"),
    "the book has other pieces": (with_book(pieces=6), {BOOK}, "for 6 pieces; the customers were told"),
    "the book has other money": (with_book(cents=18), {BOOK}, "0.18 for 5 pieces"),
    "the shop was not killed": (with_shop_kill(exit_code=143), {SHOP}, "it ended with 143"),
    "the shop was idle": (with_shop_kill(open_gids=("o-1",)), {SHOP}, "only 1 orders"),
    "its customers had been answered": (with_shop_kill(answered=("o-1",)), {SHOP}, "the customer of o-1 had"),
    "RabbitMQ was empty": (
        lambda facts: replace(facts, broker_outage=BrokerOutage(0, ("o-2",))),
        {BROKER},
        "no command waited in it",
    ),
    "nothing was decided without RabbitMQ": (
        lambda facts: replace(facts, broker_outage=BrokerOutage(1, ())),
        {BROKER},
        "nobody was told a decision",
    ),
    "Redis was not flushed": (
        lambda facts: replace(facts, lock_loss=LockLoss(0, 7)),
        {LOCKS},
        "it was not flushed",
    ),
    "Redis had nothing to lose": (
        lambda facts: replace(facts, lock_loss=LockLoss(100, 0)),
        {LOCKS},
        "there was no lock to lose",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "claims", "words"), HARM.values(), ids=HARM)
def test_harm_is_found_and_named(harm: Callable[[FullFacts], FullFacts], claims: set[str], words: str) -> None:
    checks = prove_full(harm(GOOD))
    assert broken(checks) == claims
    assert any(words in text for check in checks for text in check.broken)


def test_a_shop_that_sold_nothing_proves_nothing() -> None:
    facts = replace(
        GOOD,
        told={gid: Told(tcc.Decision.CANCEL) if gid.startswith("o") else told for gid, told in GOOD.told.items()},
        stock_after=GOOD.stock_before,
    )
    [pieces] = [check for check in prove_full(facts) if check.claim == PIECES]
    assert pieces.broken == ("nothing was sold",)


def test_every_order_is_sure_to_end_as_it_is_meant_to_whatever_the_order() -> None:
    asked = orders("bank-a")
    assert len({order.payment.gid for order in asked}) == ORDERS == len(asked)
    placed = [order for order in asked if not order.payment.refused_with]
    rejected = [order for order in asked if order.payment.refused_with]
    for sku, pieces in STOCK.items():
        assert sum(order.quantity for order in placed if order.sku == sku) <= pieces
    for customer in {order.payment.payer for order in placed}:
        spent = sum(order.payment.amount for order in placed if order.payment.payer == customer)
        assert spent <= OPENING_WITH_SHOP[customer]
    no_stock = [order for order in rejected if order.quantity > STOCK[order.sku]]
    no_money = [order for order in rejected if order.payment.amount > OPENING_WITH_SHOP[order.payment.payer]]
    assert no_stock
    assert no_money
    assert len(no_stock) + len(no_money) == len(rejected)
    assert all(order.payment.amount == order.quantity * PRICES[order.sku] for order in asked)
