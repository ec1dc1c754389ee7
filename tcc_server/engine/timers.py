"""One timer for each transaction that waits for a time, all on one handle of the event loop.

Law: due times are on the monotonic clock. A transaction has at most one due time; a new one replaces it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from tcc_server.clock import Clock

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """Calls `fire(key)` once the time that was set for the key has come.

    Setting a time for a key costs no system call: entries that were replaced stay in the heap until they surface.
    """

    def __init__(self, clock: Clock, fire: Callable[[K], None]) -> None:
        self._clock = clock
        self._fire = fire
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._handle: asyncio.TimerHandle | None = None
        self._armed_for = float("inf")

    def set(self, key: K, due: float | None) -> None:
        """Fire at `due`; None: not at all."""
        if due is None:
            self._due.pop(key, None)
            return
        if self._due.get(key) == due:
            return
        self._due[key] = due
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._due):
            self._compact()
        if due < self._armed_for:
            self._arm()

    def close(self) -> None:
        """Fire no more."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None
        self._heap.clear()
        self._due.clear()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed_for = float("inf")
        if self._heap:
            self._armed_for = self._heap[0][0]
            wait = max(0.0, self._armed_for - self._clock.now().mono)
            self._handle = asyncio.get_running_loop().call_later(wait, self._ring)

    def _ring(self) -> None:
        self._handle = None
        self._armed_for = float("inf")
        now = self._clock.now().mono
        ripe: list[K] = []
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                ripe.append(key)
        try:
            while ripe:
                self._fire(ripe.pop(0))
        finally:
            for key in ripe:  # the one before failed: these are still due
                self.set(key, now)
            if self._armed_for == float("inf"):
                self._arm()

    def _compact(self) -> None:
        self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
        heapq.heapify(self._heap)
