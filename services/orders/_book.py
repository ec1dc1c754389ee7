"""The order book: the orders' table, and every question and change that the service has for it.

The law: an order's content never changes, and its state changes once, from PENDING to PLACED or REJECTED. Beside what
the customer asked for, a row keeps all else that its transaction is made of: an order that is resumed after a restart
with other options must ask for the very same transaction again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    MetaData,
    Row,
    Select,
    String,
    Table,
    Text,
    Update,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

import tcc

METADATA: Final = MetaData()

ORDERS: Final = Table(
    "orders",
    METADATA,
    Column("order_id", String(64), primary_key=True),
    Column("customer", String(64), nullable=False),
    Column("sku", String(64), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("unit_price", BigInteger, nullable=False),
    Column("placement", String(64), nullable=False),
    Column("inventory", String(64), nullable=False),
    Column("bank", String(64), nullable=False),
    Column("shop", Text, nullable=False),
    Column("state", String(8), nullable=False, index=True),
    Column("reason", Text),
)
"""One row an order. `reason` is null until it is known that there is none, or which."""

C = ORDERS.c


class State(StrEnum):
    """Where an order stands."""

    PENDING = "PENDING"
    PLACED = "PLACED"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a customer asks for; `unit_price` in cents."""

    order_id: str
    customer: str
    sku: str
    quantity: int
    unit_price: int


@dataclass(frozen=True, slots=True)
class Terms:
    """Whom an order's transaction goes to.

    Attributes:
        placement: this service as a participant.
        inventory: the participant that has the stock.
        bank: the participant that has the accounts.
        shop: the account that gets the money; "": the money only leaves the customer's.
    """

    placement: str
    inventory: str
    bank: str
    shop: str


@dataclass(frozen=True, slots=True)
class Order:
    """An order in the book.

    Attributes:
        reason: None while it isn't known.
    """

    wish: Wish
    terms: Terms
    state: State
    reason: str | None

    @property
    def is_settled(self) -> bool:
        """Nothing about it will change."""
        return self.state is State.PLACED or (self.state is State.REJECTED and self.reason is not None)


@dataclass(frozen=True, slots=True)
class Totals:
    """Orders by state, and the pieces and cents of those that are placed."""

    orders: dict[State, int]
    pieces: int
    cents: int


class Book:
    """The orders in a database."""

    def __init__(self, fence: tcc.SqlFence) -> None:
        self._fence = fence

    async def take(self, wish: Wish, terms: Terms) -> Order:
        """Writes an order down as PENDING, unless its id is there; gives what is there then."""
        row = asdict(wish) | asdict(terms) | {"state": State.PENDING.value}
        with suppress(IntegrityError):
            async with self._fence.begin() as connection:
                await connection.execute(insert(ORDERS).values(row))
        order = await self.find(wish.order_id)
        if order is None:
            raise RuntimeError(f"order {wish.order_id} is gone from the book")
        return order

    async def find(self, order_id: str) -> Order | None:
        """One order; None for an unknown one."""
        found = await self._orders(select(ORDERS).where(C.order_id == order_id))
        return found[0] if found else None

    async def unsettled(self, after: str, limit: int) -> list[Order]:
        """The next orders by id whose decision, or its reason, isn't known."""
        open_ones = or_(C.state == State.PENDING, (C.state == State.REJECTED) & C.reason.is_(None))
        return await self._orders(select(ORDERS).where(open_ones, C.order_id > after).order_by(C.order_id).limit(limit))

    async def settle(self, order_id: str, state: State, reason: str) -> None:
        """Writes down what became of an order; again, or after its own branch did, it only adds the reason.

        Raises:
            RuntimeError: the order was settled the other way.
        """
        change = settling(order_id, state).values(reason=func.coalesce(C.reason, reason))
        async with self._fence.begin() as connection:
            if await connection.scalar(change.returning(C.order_id)) is None:
                raise RuntimeError(f"order {order_id} cannot become {state}: it was settled otherwise")

    async def totals(self) -> Totals:
        """The sums over all orders."""
        sums = select(C.state, func.count(), func.sum(C.quantity), func.sum(C.quantity * C.unit_price))
        async with self._fence.engine.connect() as connection:
            rows = {State(row[0]): row for row in await connection.execute(sums.group_by(C.state))}
        orders = {state: int(rows[state][1]) if state in rows else 0 for state in State}
        placed = rows.get(State.PLACED)
        return Totals(orders, int(placed[2]) if placed else 0, int(placed[3]) if placed else 0)

    async def _orders(self, query: Select[Any]) -> list[Order]:
        async with self._fence.engine.connect() as connection:
            return [_order(row) for row in await connection.execute(query)]


def settling(order_id: str, state: State) -> Update:
    """Makes an order PLACED or REJECTED, unless it was settled the other way: then it finds no row."""
    still = C.state.in_((State.PENDING.value, state.value))
    return update(ORDERS).where(C.order_id == order_id, still).values(state=state.value)


def _order(row: Row[Any]) -> Order:
    return Order(
        wish=Wish(row.order_id, row.customer, row.sku, row.quantity, row.unit_price),
        terms=Terms(row.placement, row.inventory, row.bank, row.shop),
        state=State(row.state),
        reason=row.reason,
    )
