"""The time limits of handlers: one timer for all that run, since nearly none is ever stopped.

Beside that timer a handler costs an entry in a set; it is set for the one whose time ends first, and looks at all of
them when it goes off.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final, Protocol

_EARLY: Final = 0.001
"""Seconds by which an event loop's timer may go off too early."""


class Limited(Protocol):
    """What runs within a time.

    Attributes:
        time_limit: when that ends, on the monotonic clock.
    """

    time_limit: float

    def expire(self) -> None:
        """Its time is over. Called until it is removed, as often as the timer goes off."""


class TimeLimits:
    """Everything that runs within a time, in one event loop."""

    def __init__(self) -> None:
        self._running: set[Limited] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._goes_off = math.inf

    def add(self, one: Limited, loop: asyncio.AbstractEventLoop) -> None:
        """Expire it at its time, unless it is removed before.

        Args:
            one: that begins now.
            loop: the running one.
        """
        if loop is not self._loop:  # the first one, or one that came after the end of another
            self._loop, self._goes_off = loop, math.inf
            self._running.clear()
        self._running.add(one)
        if one.time_limit < self._goes_off:
            self._set(one.time_limit, loop)

    def remove(self, one: Limited) -> None:
        """It is over."""
        self._running.discard(one)

    def _set(self, goes_off: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._goes_off = goes_off
        self._timer = loop.call_later(max(0.0, goes_off - time.monotonic()), self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        over = time.monotonic() + _EARLY
        self._timer, self._goes_off = None, math.inf
        goes_on = math.inf
        for one in tuple(self._running):
            if one.time_limit <= over:
                one.expire()
            elif one.time_limit < goes_on:
                goes_on = one.time_limit
        if goes_on < math.inf:
            self._set(goes_on, loop)
