"""A seeded event loop: what is ready runs in an order that the seed decides, and time jumps when nothing is ready.

No real I/O happens on it. The same seed gives the same run, to the last step.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SeededLoop(asyncio.BaseEventLoop):
    """An event loop without a selector."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)  # noqa: S311  chance is the point
        self.steps = 0
        self.step_limit = 50_000
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)._scheduled = False  # type: ignore[attr-defined]  # asyncio's own bookkeeping
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0].when())
        while self._scheduled and self._scheduled[0].when() <= self._now:
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]  # asyncio's own bookkeeping
            self._ready.append(handle)
        if self._ready:
            self._ready.rotate(-self.random.randrange(len(self._ready)))
            ready = self._ready.popleft()
            if not ready.cancelled():
                self.steps += 1
                if self.steps > self.step_limit:
                    raise RuntimeError(f"more than {self.step_limit} steps: something spins")
                ready._run()
        elif not self._stopping:  # type: ignore[attr-defined]  # asyncio's own bookkeeping
            raise RuntimeError("nothing is ready and no timer is set: the simulation is stuck")

    def _write_to_self(self) -> None:
        pass

    def _process_events(self, event_list: object) -> None:
        pass


def run(seed: int, main: Coroutine[Any, Any, T]) -> tuple[T, SeededLoop]:
    """Run a coroutine to its end on a loop of that seed; tasks that it leaves are cancelled."""
    loop = SeededLoop(seed)
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main)
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        if rest:
            loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        return result, loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()
