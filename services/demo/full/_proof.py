"""The proof on the whole stack: all that the plain demo proves, of orders as of transfers, and the stock.

An order's money is a transfer like any other (`Order.payment`), so what holds for money is proved by the same checks.
Here is what they don't see: pieces, the shop's book, and that the servers failed when they were to.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import tcc
from services.demo._proof import Check, Facts, cents, prove
from services.demo.full._shop import Order, OrderBook, Stock


@dataclass(frozen=True, slots=True)
class ShopKill:
    """The orders service was killed with orders under way.

    Attributes:
        open_gids: orders that were undecided just before.
        answered: those of them whose customers had been told something when it was dead.
        exit_code: of the killed process.
    """

    open_gids: tuple[str, ...]
    answered: tuple[str, ...]
    exit_code: int


@dataclass(frozen=True, slots=True)
class BrokerOutage:
    """RabbitMQ was stopped, and started again.

    Attributes:
        waiting: messages for a dead participant that lay in it just before.
        answered: gids whose clients were told a decision while it was down.
    """

    waiting: int
    answered: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LockLoss:
    """Redis was flushed over and over.

    Attributes:
        flushes: how often, while transactions were under way.
        keys: how many locks were lost by that.
    """

    flushes: int
    keys: int


@dataclass(frozen=True, slots=True)
class FullFacts(Facts):
    """Everything that was seen.

    Attributes:
        orders: all that were asked for; their payments are among the transfers.
        stock_before: the warehouse's, before the first order, by sku.
        stock_after: and in the end.
        book: the shop's own, in the end.
        tried: reservations that the fences of warehouse and shop hold in the end, by participant.
        shop_kill: how the orders service was killed.
        broker_outage: how RabbitMQ failed; None where it is not the demo's to stop.
        lock_loss: how Redis failed; None where it is not the demo's to flush.
    """

    orders: tuple[Order, ...]
    stock_before: Mapping[str, Stock]
    stock_after: Mapping[str, Stock]
    book: OrderBook
    tried: Mapping[str, int]
    shop_kill: ShopKill
    broker_outage: BrokerOutage | None
    lock_loss: LockLoss | None


def prove_full(facts: FullFacts) -> list[Check]:
    """All checks; the demo succeeds if each of them holds."""
    before, after = _pieces(facts.stock_before), _pieces(facts.stock_after)
    sold = sum(order.quantity for order in _placed(facts))
    checks = [
        ("no piece was lost, made, or sold twice", f"{before} before, {after} after, {sold} sold", _stock(facts)),
        ("no piece is left reserved", "in the stock, and in the fences of warehouse and shop", _reserved(facts)),
        ("the shop's book says what its customers were told", _in_words(facts.book), _book(facts)),
        ("the shop was killed with orders under way", f"{len(facts.shop_kill.open_gids)} orders", _shop_kill(facts)),
    ]
    if outage := facts.broker_outage:
        seen = f"{outage.waiting} waiting, {len(outage.answered)} clients answered meanwhile"
        checks.append(("RabbitMQ was restarted with commands waiting in it", seen, _outage(outage)))
    if loss := facts.lock_loss:
        seen = f"{loss.flushes} times, {loss.keys} locks lost"
        checks.append(("Redis was flushed with work under way", seen, _loss(loss)))
    return [*prove(facts), *(Check(claim, seen, tuple(broken)) for claim, seen, broken in checks)]


def _in_words(book: OrderBook) -> str:
    return f"{book.placed} placed, {book.rejected} rejected, {cents(book.cents)} for {book.pieces} pieces"


def _pieces(stock: Mapping[str, Stock]) -> int:
    return sum(one.available + one.reserved for one in stock.values())


def _placed(facts: FullFacts) -> list[Order]:
    """The orders whose customers were told so."""
    return [order for order in facts.orders if _decision(facts, order) is tcc.Decision.CONFIRM]


def _decision(facts: FullFacts, order: Order) -> tcc.Decision | None:
    told = facts.told.get(order.payment.gid)
    return told.decision if told else None


def _stock(facts: FullFacts) -> Iterator[str]:
    if not _placed(facts):
        yield "nothing was sold"
    for sku, before in facts.stock_before.items():
        sold = sum(order.quantity for order in _placed(facts) if order.sku == sku)
        expected = before.available + before.reserved - sold
        after = facts.stock_after[sku]
        has = after.available + after.reserved
        if has != expected:
            yield f"there are {has} {sku} and should be {expected}"


def _reserved(facts: FullFacts) -> Iterator[str]:
    for sku, stock in facts.stock_after.items():
        if stock.reserved:
            yield f"{stock.reserved} {sku} are kept aside"
    for participant, tried in facts.tried.items():
        if tried:
            yield f"the fence of {participant} holds {tried} reservations"


def _book(facts: FullFacts) -> Iterator[str]:
    placed = _placed(facts)
    rejected = [order for order in facts.orders if _decision(facts, order) is tcc.Decision.CANCEL]
    paid = sum(order.payment.amount for order in placed)
    told = OrderBook(0, len(placed), len(rejected), sum(order.quantity for order in placed), paid)
    if facts.book.pending:
        yield f"{facts.book.pending} orders are pending"
    if facts.book != told:
        yield f"it says {_in_words(facts.book)}; the customers were told {_in_words(told)}"


def _shop_kill(facts: FullFacts) -> Iterator[str]:
    kill = facts.shop_kill
    if kill.exit_code != -signal.SIGKILL:
        yield f"it ended with {kill.exit_code}, not by SIGKILL"
    if len(kill.open_gids) < 2:
        yield f"only {len(kill.open_gids)} orders were undecided when it was killed"
    for gid in kill.answered:
        yield f"the customer of {gid} had its answer before"


def _outage(outage: BrokerOutage) -> Iterator[str]:
    if not outage.waiting:
        yield "no command waited in it"
    if not outage.answered:
        yield "nobody was told a decision while it was down"


def _loss(loss: LockLoss) -> Iterator[str]:
    if not loss.flushes:
        yield "it was not flushed"
    if not loss.keys:
        yield "there was no lock to lose"
