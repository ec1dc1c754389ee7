"""Faults to put between the manager and its seams. Each fault is asked for by a test, once, and then spent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from enum import Enum

from tcc_server.core.model import Key
from tcc_server.log.seam import Filter, Log, LogRejected, LogUnknown, Page, Row


class Fault(Enum):
    """What becomes of one append."""

    NONE = "written, as without a fault"
    UNKNOWN_UNWRITTEN = "raises LogUnknown, and nothing was written"
    UNKNOWN_WRITTEN = "raises LogUnknown, though the row was written"
    REJECTED = "raises LogRejected"
    HELD = "waits for `release` before it is written"
    HELD_AFTER = "is written, and waits for `release` before it returns"


class FaultyLog:
    """A Log that lets the next appends meet the faults planned for them, in order; without a plan it is the log within.

        log = FaultyLog(MemoryLog(replica="r1"))
        log.plan(Fault.NONE, Fault.UNKNOWN_WRITTEN)       # the second append from now

    Attributes:
        appended: every row given to `append`, in order, whatever became of it.
    """

    def __init__(self, within: Log) -> None:
        self._within = within
        self._faults: deque[Fault] = deque()
        self._released = asyncio.Event()
        self._held = 0
        self._changed = asyncio.Condition()
        self.appended: list[Row] = []

    def plan(self, *faults: Fault) -> None:
        """What the next appends meet, one fault each."""
        self._faults.extend(faults)

    def release(self) -> None:
        """Let go of every append that is held now."""
        self._released.set()
        self._released = asyncio.Event()

    async def until_held(self, count: int = 1) -> None:
        """Wait until so many appends are held."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._held >= count)

    async def append(self, row: Row) -> None:
        """Append the row, with the next planned fault."""
        self.appended.append(row)
        fault = self._faults.popleft() if self._faults else Fault.NONE
        match fault:
            case Fault.UNKNOWN_UNWRITTEN:
                raise LogUnknown("planned: nothing was written")
            case Fault.REJECTED:
                raise LogRejected("planned")
            case Fault.HELD:
                await self._hold()
                await self._within.append(row)
            case Fault.NONE:
                await self._within.append(row)
            case Fault.UNKNOWN_WRITTEN:
                await self._within.append(row)
                raise LogUnknown("planned: the row was written")
            case Fault.HELD_AFTER:
                await self._within.append(row)
                await self._hold()

    async def _hold(self) -> None:
        released = self._released
        async with self._changed:
            self._held += 1
            self._changed.notify_all()
        try:
            await released.wait()
        finally:
            self._held -= 1

    @property
    def shared(self) -> bool:
        """As the log within."""
        return self._within.shared

    async def open(self) -> None:
        """As the log within."""
        await self._within.open()

    async def close(self) -> None:
        """As the log within."""
        await self._within.close()

    async def lapsed(self) -> None:
        """As the log within."""
        await self._within.lapsed()

    async def load(self, keys: Collection[Key]) -> dict[Key, Row]:
        """As the log within."""
        return await self._within.load(keys)

    async def list(self, wanted: Filter, page_size: int, token: str | None = None) -> Page:
        """As the log within."""
        return await self._within.list(wanted, page_size, token)

    async def adopt(self, limit: int) -> Sequence[Row]:
        """As the log within."""
        return await self._within.adopt(limit)
