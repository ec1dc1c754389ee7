"""Adoption: unfinished transactions of dead replicas find somebody who goes on with them.

At start, and from then on about once a second where the log is shared. Batches are small and the pauses jittered, so
that replicas that look at the same time share the work of a dead one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from tcc_server.clock import Rng
from tcc_server.log.seam import Log, LogUnavailable, Row

_log = structlog.get_logger(__name__)

BATCH = 64
_PAUSE = 1.0
_BETWEEN_BATCHES = 0.02


class Adoption:
    """Looks for orphans.

    Args:
        log: where they are.
        resume: goes on with one.
        rng: dice for the pauses.
    """

    def __init__(self, log: Log, resume: Callable[[Row], object], rng: Rng) -> None:
        self._log = log
        self._resume = resume
        self._rng = rng
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Adopt what there is, then go on looking where others may die. Raises LogUnavailable."""
        await self._adopt()
        if self._log.shared:
            self._looking = asyncio.create_task(self._look(), name="adoption")

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(_PAUSE * (0.5 + self._rng.uniform()))
            try:
                await self._adopt()
                failing = False
            except LogUnavailable as error:
                if not failing:
                    _log.warning("adoption_failed", error=str(error))
                failing = True

    async def _adopt(self) -> None:
        while True:
            rows = await self._log.adopt(BATCH)
            for row in rows:
                self._resume(row)
            if self._looking is not None and rows:
                _log.info("adopted", transactions=len(rows))
            if len(rows) < BATCH:
                return
            await asyncio.sleep(_BETWEEN_BATCHES * self._rng.uniform())
