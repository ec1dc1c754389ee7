"""Watches transactions that other replicas work on: whoever waits for one waits for its row to change.

One query looks after all that are watched, every 20 ms at first and once a second in the end; a newcomer makes it quick
again. That is the price of having no channel between replicas: a database that both have is enough.
"""

from __future__ import annotations

import asyncio

from tcc_server.core.model import Key
from tcc_server.log.seam import Log, LogUnavailable

_FIRST, _MAX = 0.02, 1.0
_GROWTH = 1.5


class Watching:
    """Polls rows, as long as somebody waits.

    Args:
        log: has the rows.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: dict[asyncio.Future[None], tuple[Key, int]] = {}
        self._pause = _FIRST
        self._hurry = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None

    async def changed(self, key: Key, version: int) -> None:
        """Returns once the row has another version, or no living replica works on it any more."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[change] = (key, version)
        self._pause = _FIRST
        self._hurry.set()
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll(), name="watching")
        try:
            await change
        finally:
            self._waiting.pop(change, None)

    async def close(self) -> None:
        """Let go of those who wait: they find out by themselves that nothing is worked on here any more."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait({self._polling})
        for change in self._waiting:
            if not change.done():
                change.set_result(None)

    async def _poll(self) -> None:
        try:
            while self._waiting:
                self._hurry.clear()
                try:
                    async with asyncio.timeout(self._pause):
                        await self._hurry.wait()
                except TimeoutError:
                    self._pause = min(_MAX, self._pause * _GROWTH)
                else:
                    await asyncio.sleep(_FIRST)  # those who come together share a query
                await self._look()
        finally:
            self._polling = None

    async def _look(self) -> None:
        try:
            rows = await self._log.load({key for key, _ in self._waiting.values()})
        except LogUnavailable:
            return
        for change, (key, version) in list(self._waiting.items()):
            row = rows.get(key)
            if not change.done() and (row is None or row.version != version or not row.elsewhere):
                change.set_result(None)
