"""Adoption: unfinished transactions of dead replicas find somebody who goes on with them.

At start, and from then on about once a second where the log is shared. Batches are small and the pauses jittered, so
that replicas that look at the same time share the work of a dead one, and that whoever asks for something new meanwhile
does not wait for a hundred thousand old ones. A request for an old one that is not adopted yet takes it over by itself.
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
        self._adopted = 0  # since the last time that there was none left

    async def start(self) -> None:
        """Adopt a first batch, then go on beside other work: until all is adopted, or, where others may die, for ever.

        Raises LogUnavailable if the first one does.
        """
        is_more = await self._adopt()
        if is_more or self._log.shared:
            self._looking = asyncio.create_task(self._look(is_more), name="adoption")

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look(self, is_more: bool) -> None:
        failing = False
        while is_more or self._log.shared:
            if is_more and not failing:
                await asyncio.sleep(_BETWEEN_BATCHES * self._rng.uniform())
            else:
                await asyncio.sleep(_PAUSE * (0.5 + self._rng.uniform()))
            try:
                is_more = await self._adopt()
                failing = False
            except LogUnavailable as error:
                if not failing:
                    _log.warning("adoption_failed", error=str(error))
                failing = True

    async def _adopt(self) -> bool:
        """One batch; whether there may be more."""
        rows = await self._log.adopt(BATCH)
        for row in rows:
            self._resume(row)
        self._adopted += len(rows)
        if len(rows) == BATCH:
            return True
        if self._adopted:
            _log.info("adopted", transactions=self._adopted)
            self._adopted = 0
        return False
