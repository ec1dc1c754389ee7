"""A fence in memory, for tests and for services that keep their state in memory too.

It forgets everything when the process ends, and it cannot roll back: a handler that raises must not have changed
anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from tcc.fence._rules import Rule, State
from tcc.fence._seam import (
    DEFAULT_RETENTION,
    DEFAULT_ROW_WAIT,
    Body,
    FenceBusy,
    Record,
    Verdict,
    Visit,
    record_after,
    rule_for,
)

_Key: TypeAlias = tuple[str, str, str]


class MemoryFence:
    """Rows in a dictionary.

    Args:
        retention: seconds for which rows of finished branches are meant to be kept; half of it bounds late Tries.
        row_wait: seconds that a visit waits for another visit of the same branch before it is BUSY.
        clock: unix seconds.
    """

    def __init__(
        self,
        *,
        retention: float = DEFAULT_RETENTION,
        row_wait: float = DEFAULT_ROW_WAIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._retention = retention
        self._row_wait = row_wait
        self._clock = clock
        self._rows: dict[_Key, Record] = {}
        self._turns: dict[_Key, tuple[asyncio.Lock, int]] = {}

    @property
    def retention(self) -> float:
        """Seconds for which rows of finished branches are kept."""
        return self._retention

    def record(self, namespace: str, gid: str, branch: str) -> Record | None:
        """The row of a branch; None where there is none."""
        return self._rows.get((namespace, gid, branch))

    async def visit(self, visit: Visit, body: Body) -> Verdict:
        """Applies the table to the branch; see `Fence.visit`."""
        key = (visit.namespace, visit.gid, visit.branch)
        async with self._turn(key):
            record = self._rows.get(key)
            rule = rule_for(record, visit)
            match rule:
                case Rule.RUN:
                    result = await body(record)
                    record = self._rows[key] = record_after(visit, record, result, self._clock())
                case Rule.RECORD:
                    record = self._rows[key] = Record(State.CANCELLED, visit.action, visit.request_hash)
            return Verdict(rule, record)

    async def close(self) -> None:
        """Nothing is open."""

    @asynccontextmanager
    async def _turn(self, key: _Key) -> AsyncIterator[None]:
        lock, visitors = self._turns.get(key) or (asyncio.Lock(), 0)
        self._turns[key] = (lock, visitors + 1)
        try:
            try:
                async with asyncio.timeout(self._row_wait):
                    await lock.acquire()
            except TimeoutError:
                raise FenceBusy("another delivery of this branch is being worked on") from None
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, visitors = self._turns[key]
            if visitors == 1:
                del self._turns[key]
            else:
                self._turns[key] = (lock, visitors - 1)
