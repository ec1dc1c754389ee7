"""Visits that share transactions: those that arrive while one is under way go together in the next.

One alone goes at once, in a list of one; there is no timer. What a list could not settle is visited alone, by the
caller that waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Final

from tcc.batching import Answered, Batcher
from tcc.fence._rows import key_of
from tcc.fence._seam import Body, Listed, ListFence, Verdict, Visit, VisitAlone, VisitLater

_ALONE_FIRST: Final = 1.0
"""Seconds for which a list waits for visits that go alone."""
MAX_VISITS: Final = 128
"""Visits that share a transaction at most."""


class SharedVisits:
    """The way of visits whose business code touches its session alone.

    Args:
        fence: that takes lists.
        max_visits: of one list.
    """

    def __init__(self, fence: ListFence, *, max_visits: int = MAX_VISITS) -> None:
        self._fence = fence
        self._alone: set[Listed] = set()
        self._quiet: asyncio.Event | None = None
        self._batcher: Batcher[Listed, Verdict] = Batcher(
            self._send, max_items=max_visits, max_bytes=max_visits, size_of=lambda _: 1, key_of=_key
        )

    async def visit(self, visit: Visit, body: Body) -> Verdict:
        """As `Fence.visit`, in a transaction with others; `body` runs in a copy of the caller's context.

        A cancelled visit whose business code runs stops it, and returns when its list is over.
        """
        while True:
            listed = Listed(visit, body, copy_context())
            try:
                return await self._batcher.put(listed)
            except VisitLater:
                continue
            except VisitAlone:
                return await self._fence.visit(visit, body)
            except asyncio.CancelledError:
                await self.give_up((listed,))
                raise
            finally:
                self._forget(listed)

    def visit_all(self, visits: Iterable[tuple[Listed, Answered[Verdict]]]) -> None:
        """As `visit` for each, where the caller says where its answer goes.

        What is answered by `VisitLater` is to be visited again, what is answered by `VisitAlone` made by `alone`; what
        the caller does not wait for any more goes to `give_up`.
        """
        self._batcher.put_all(visits)

    async def alone(self, listed: Listed) -> Verdict:
        """Makes a visit that its list could not settle."""
        try:
            return await self._fence.visit(listed.visit, listed.body)
        finally:
            self._forget(listed)

    async def give_up(self, visits: Sequence[Listed]) -> None:
        """Stops visits for which nobody waits any more; returns, whatever comes, when none of them is under way."""
        for listed in visits:
            listed.drop()
            self._forget(listed)
        for listed in visits:
            if listed.over is not None:
                await _through(listed.over)

    def _forget(self, listed: Listed) -> None:
        """It is not made alone any more."""
        self._alone.discard(listed)
        if not self._alone and self._quiet is not None:
            self._quiet.set()

    async def _send(self, listed: Sequence[Listed]) -> Sequence[Verdict | Exception]:
        await self._let_them_finish()
        over = asyncio.Event()
        for one in listed:
            one.over = over
        try:
            made = await self._fence.visit_many(listed)
        finally:
            over.set()
        for one, result in zip(listed, made, strict=True):
            # One that was dropped before its list began is not waited for: it may be gone, and would stay in the set.
            if isinstance(result, VisitAlone) and not isinstance(result, VisitLater) and not one.dropped:
                self._alone.add(one)
        return made

    async def _let_them_finish(self) -> None:
        """Those that go alone after a list come before the next one, or the two would wait for each other's rows."""
        if self._alone:
            self._quiet = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(_ALONE_FIRST):
                    await self._quiet.wait()
            self._quiet = None


def _key(listed: Listed) -> tuple[str, str, str]:
    return key_of(listed.visit)


async def _through(event: asyncio.Event) -> None:
    """Waits for an event that is bound to come, whatever cancellations come meanwhile."""
    while not event.is_set():
        try:
            await event.wait()
        except asyncio.CancelledError:
            continue
