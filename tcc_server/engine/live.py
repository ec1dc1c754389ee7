"""A transaction that this replica works on: its last durable value, what waits to be answered, and who waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from tcc.batching import Answered
from tcc_server.caller.seam import Sent
from tcc_server.core.messages import Signal, TryAnswered
from tcc_server.core.model import Ask, Key, Transaction

Condition = Callable[[Transaction], bool]


def payload(tx: Transaction) -> int:
    """Bytes of the transaction's requests and Try replies."""
    held = 0
    for branch in tx.branches:
        held += len(branch.ask.request) + len(branch.reply)
    return held


class Lost(Exception):
    """This replica works on the transaction no more: the log has what there is to know."""


class Live:
    """One transaction in work.

    Attributes:
        tx: what is durable, and what was learned since; None until the begin is durable.
        inbox: signals that wait for their turn.
        stirred: something came in that is about to be answered.
        writing: an append is under way; signals wait.
        wake: when the core wants to be woken, as far as that is durable.
        tries: the attempts in flight, by step and number.
        enlisting: branches that were asked for and are not durable yet, by step.
        trailers: what participants sent behind their answer to a Try, by step, to be passed through.
    """

    __slots__ = (
        "_waiters",
        "enlisting",
        "inbox",
        "key",
        "lost",
        "stirred",
        "trailers",
        "tries",
        "tx",
        "wake",
        "writing",
    )

    def __init__(self, key: Key, tx: Transaction | None = None) -> None:
        self.key = key
        self.tx = tx
        self.inbox: deque[Signal] = deque()
        self.stirred = False
        self.writing = False
        self.wake: float | None = None
        self.tries: dict[tuple[str, int], Sent] = {}
        self.enlisting: dict[str, Ask] = {}
        self.trailers: dict[str, Sequence[tuple[str, str | bytes]]] = {}
        self.lost: Exception | None = None
        self._waiters: list[tuple[Condition, Answered[Transaction]]] = []

    @property
    def held(self) -> int:
        """Bytes of requests and Try replies: those of the transaction, and those that wait to be taken in."""
        held = 0 if self.tx is None else payload(self.tx)
        for signal in self.inbox:
            if isinstance(signal, TryAnswered):
                held += len(signal.reply)
        for ask in self.enlisting.values():
            held += len(ask.request)
        return held

    async def until(self, condition: Condition) -> Transaction:
        """The transaction as soon as the condition holds.

        Raises:
            Lost: it is no longer worked on here.
            EngineError: it came to nothing.
        """
        if self.tx is not None and condition(self.tx):
            return self.tx
        if self.lost is not None:
            raise self.lost
        future: asyncio.Future[Transaction] = asyncio.get_running_loop().create_future()
        entry = (condition, future)
        self._waiters.append(entry)
        try:
            return await future
        finally:
            if entry in self._waiters:
                self._waiters.remove(entry)

    def wait_for(self, condition: Condition, waiter: Answered[Transaction]) -> None:
        """As `until`, without waiting: `waiter` is told in the midst of work, and must leave its own for later."""
        if self.lost is not None:
            waiter.set_exception(self.lost)
        elif self.tx is not None and condition(self.tx):
            waiter.set_result(self.tx)
        else:
            self._waiters.append((condition, waiter))

    def tell(self) -> None:
        """Wake those whose condition holds now."""
        tx = self.tx
        if tx is None or not self._waiters:
            return
        waiting = []
        for entry in self._waiters:
            condition, future = entry
            if future.done():
                continue
            if condition(tx):
                future.set_result(tx)
            else:
                waiting.append(entry)
        self._waiters = waiting

    def end(self, why: Exception) -> None:
        """Send away everybody who still waits."""
        self.lost = why
        waiters, self._waiters = self._waiters, []
        for _, future in waiters:
            if not future.done():
                future.set_exception(why)
        self.drop_tries()

    def drop_tries(self) -> None:
        """Stop waiting for the attempts in flight; those that have not left stay here."""
        tries, self.tries = self.tries, {}
        for attempt in tries.values():
            attempt.cancel()
