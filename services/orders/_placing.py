"""Places orders: one transaction for each, run until its decision stands in the book, whatever crashes meanwhile.

Its branches are the order itself (`Placement`), the pieces, the customer's money and, if the shop has an account, the
shop's. Its gid is the order's id, and that is what makes every step repeatable:

*First the row, then Execute.* The PENDING row is the promise to go on. Killed before the row: the customer has no
answer, and nothing was done. Killed after it: the row is found at the next start, and executed. The other way round a
crash would leave a transaction of which nobody here knows.

*Execute is never known not to have arrived,* and need not be: it is sent again with the same gid and the same content.
A manager that never saw it begins it now; one that did gives the answer that it gave or will give. So nobody is charged
twice, and no order is lost. A customer who was told UNAVAILABLE may be charged later: the order was taken, and only the
decision says otherwise.

*The decision comes by two ways,* as Confirm or Cancel of the order's own branch, and as the answer of Execute. They
can't differ, so whichever is first writes the state. The branch's way needs no one who waits for it. The answer's way
knows why, and also comes where the branch has nothing to cancel: a Cancel that overtakes its Try reaches no handler.

What an answer means:

    confirmed              PLACED
    TransactionCancelled   REJECTED, with what the participants said. Also where the deadline was the reason: this
                           transaction is decided for ever; the customer may order anew with a new id.
    OutcomeUnknown,        still PENDING: asked again, with backoff.
    ManagerUnavailable
    ManagerError           The same. The manager refuses this call (it does not know the bank, say), and may have taken
                           an earlier one; its configuration has to be mended.
    TransactionMixed       Decided all the same: the state follows the decision, the reason calls for a person.
    GidReused              Somebody else's transaction has the id, so this order can't be placed: REJECTED. But if the
                           order's own branch is in it, it is ours (of a version of this service that planned
                           otherwise), and the state follows its decision.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc.aio

import tcc
from services.accounts.v1.accounts_pb2 import CreditRequest, DebitRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from services.inventory.v1.inventory_pb2 import ReserveRequest
from services.inventory.v1.inventory_pb2_grpc import InventoryStub
from services.orders._book import Book, Order, State
from services.orders.v1.orders_pb2 import PlaceRequest
from services.orders.v1.orders_pb2_grpc import PlacementStub

_log = logging.getLogger(__name__)

TRY_PLACE: Final = "/services.orders.v1.Placement/TryPlace"
AT_A_TIME: Final = 16
"""Orders that are resumed side by side."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """An attempt came to no decision.

    Attributes:
        why: in words.
        away: the manager could not be reached at all, so other orders would fare no better.
    """

    why: str
    away: bool = False


class Placing:
    """Runs the orders' transactions; as a context manager it also resumes what was left, and ends its work.

    Args:
        book: has the orders.
        manager: connected to the TCC manager.
        first, longest: seconds between rounds over what is left: random up to `first`, doubling up to `longest`.
    """

    def __init__(self, book: Book, manager: tcc.Manager, *, first: float = 0.5, longest: float = 10.0) -> None:
        self._book = book
        self._manager = manager
        self._first = first
        self._longest = longest
        self._left = asyncio.Event()
        self._left.set()  # by an earlier process, for all that is known
        self._attempts: dict[str, asyncio.Task[Undecided | None]] = {}
        self._resuming: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._resuming = asyncio.create_task(self._resume())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        tasks = [*self._attempts.values(), *([self._resuming] if self._resuming else [])]
        for task in tasks:
            task.cancel()  # at any point: what isn't in the book is resumed at the next start
        await asyncio.gather(*tasks, return_exceptions=True)

    async def place(self, order: Order) -> Undecided | None:
        """Makes one attempt, or joins the one under way; None: the decision stands in the book.

        The attempt goes on when the caller is cancelled. What comes to no decision is resumed in the background.
        """
        order_id = order.wish.order_id
        attempt = self._attempts.get(order_id)
        if attempt is None:
            attempt = self._attempts[order_id] = asyncio.create_task(self._attempt(order))
            attempt.add_done_callback(lambda _: self._attempts.pop(order_id))
        return await asyncio.shield(attempt)

    async def _attempt(self, order: Order) -> Undecided | None:
        undecided: Undecided | None
        try:
            undecided = await self._execute(order)
        except Exception as error:  # the database, most likely: the order must not be forgotten for it
            _log.exception("order %s: the attempt failed", order.wish.order_id)
            undecided = Undecided(f"{type(error).__name__}; see the service's log")
        if undecided is not None:
            self._left.set()
        return undecided

    async def _execute(self, order: Order) -> Undecided | None:
        order_id = order.wish.order_id
        state, reason = State.PLACED, ""
        try:
            await self._manager.execute(*_plan(order), name="order", gid=order_id)
        except tcc.TransactionCancelled as cancelled:
            state, reason = State.REJECTED, _why(cancelled)
        except (tcc.OutcomeUnknown, tcc.ManagerUnavailable, tcc.ManagerError) as error:
            _log.warning("order %s stays PENDING: %s", order_id, error)
            return Undecided(str(error), away=isinstance(error, tcc.ManagerUnavailable))
        except (tcc.TransactionMixed, tcc.GidReused) as error:
            _log.error("order %s: %s", order_id, error)
            decided = await self._look(order, error)
            if decided is None:
                return Undecided(str(error))
            state, reason = decided, str(error)
        await self._book.settle(order_id, state, reason)
        return None

    async def _look(self, order: Order, error: tcc.TccError) -> State | None:
        """The order's state by the transaction that has its gid; None while that isn't known."""
        try:
            found = await self._manager.get(order.wish.order_id)
        except (tcc.ManagerUnavailable, tcc.ManagerError) as unread:
            _log.warning("order %s stays PENDING: %s", order.wish.order_id, unread)
            return None
        own = any(
            branch.participant == order.terms.placement and branch.action.try_method == TRY_PLACE
            for branch in found.branches
        )
        if isinstance(error, tcc.GidReused) and not own:
            # Without its branches (it is so old that only the decision is kept) nobody can tell whose it is.
            return State.REJECTED if found.branches else None
        match found.decision:
            case tcc.Decision.CONFIRM:
                return State.PLACED
            case tcc.Decision.CANCEL:
                return State.REJECTED
            case None:
                return None

    async def _resume(self) -> None:
        while True:
            await self._left.wait()
            self._left.clear()
            longest = self._first
            while await self._round():
                await asyncio.sleep(longest * random.random())  # noqa: S311  no secret
                longest = min(longest * 2, self._longest)

    async def _round(self) -> bool:
        """Attempts what is left; gives whether it should be looked at again."""
        after, left = "", False
        try:
            while orders := await self._book.unsettled(after, AT_A_TIME):
                after = orders[-1].wish.order_id
                waiting = [order for order in orders if order.wish.order_id not in self._attempts]
                ends = await asyncio.gather(*map(self.place, waiting))
                left = left or any(ends)
                if any(end.away for end in ends if end is not None):
                    break
        except Exception:  # nobody else would resume what is left
            _log.exception("looking for orders that are PENDING failed; it goes on")
            return True
        return left


def _plan(order: Order) -> Iterable[grpc.aio.UnaryUnaryCall[Any, Any]]:
    """The order's transaction: from its row alone, and always the same."""
    wish, terms = order.wish, order.terms
    amount = wish.quantity * wish.unit_price
    inventory = InventoryStub(tcc.plan.participant(terms.inventory))
    bank = AccountsStub(tcc.plan.participant(terms.bank))
    placement = PlacementStub(tcc.plan.participant(terms.placement))
    yield placement.TryPlace(PlaceRequest(order_id=wish.order_id), metadata=_step("order"))
    yield inventory.TryReserve(ReserveRequest(sku=wish.sku, quantity=wish.quantity), metadata=_step("stock"))
    yield bank.TryDebit(DebitRequest(account=wish.customer, amount=amount), metadata=_step("debit"))
    if terms.shop:
        credit = CreditRequest(account=terms.shop, amount=amount, reference=f"order {wish.order_id}")
        yield bank.TryCredit(credit, metadata=_step("credit"))


def _step(name: str) -> tuple[tuple[str, str]]:
    return (("tcc-step", name),)


def _why(cancelled: tcc.TransactionCancelled) -> str:
    """For the customer: what the participants said, without our own branch's machinery."""
    said = (f"{refusal.participant}: {refusal.details()}" for refusal in cancelled.refusals)
    return "; ".join(said) or f"cancelled: {cancelled.reason.lower()}"
