"""A fence in memory, for tests and for services that keep their state in memory too.

It forgets everything when the process ends, and it cannot roll back: a handler that raises must not have changed
anything.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
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
        self._turns: dict[_Key, deque[asyncio.Future[None]] | None] = {}
        """Branches that are being visited, and who waits; None where nobody ever did."""

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
        if key in self._turns:
            await self._turn(key)
        else:
            self._turns[key] = None
        try:
            record = self._rows.get(key)
            rule = rule_for(record, visit)
            if rule is Rule.RUN:
                record = self._rows[key] = record_after(visit, record, await body(record), self._clock())
            elif rule is Rule.RECORD:
                record = self._rows[key] = Record(State.CANCELLED, visit.action, visit.request_hash)
            return Verdict(rule, record)
        finally:
            if self._turns[key] is None:
                del self._turns[key]
            else:
                self._pass_on(key)

    async def close(self) -> None:
        """Nothing is open."""

    async def _turn(self, key: _Key) -> None:
        """Waits behind the visits of this branch that came before."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._turns[key]
        if waiting is None:
            waiting = self._turns[key] = deque()
        waiting.append(turn)
        try:
            async with asyncio.timeout(self._row_wait):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it came in the moment in which nobody waited for it any more
                self._pass_on(key)
            turn.cancel()
            if isinstance(error, TimeoutError):
                raise FenceBusy("another delivery of this branch is being worked on") from None
            raise

    def _pass_on(self, key: _Key) -> None:
        """Gives the turn to who has waited longest; where nobody waits, there are no turns any more."""
        waiting = self._turns[key]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._turns[key]
