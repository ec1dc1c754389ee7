"""An SQL fence whose every visit goes the way of batchable handlers: in lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from tcc.fence import Body, Listed, SharedVisits, SqlFence, Verdict, Visit


class SharingFence(SqlFence):
    """Keeps count of its lists.

    Args:
        database, options: as of `SqlFence`.
    """

    def __init__(self, database: str | AsyncEngine, **options: Any) -> None:
        super().__init__(database, **options)
        self._shared = SharedVisits(_Underneath(self))
        self.lists: list[int] = []
        self.alone = 0

    async def visit(self, visit: Visit, body: Body) -> Verdict:
        return await self._shared.visit(visit, body)

    async def visit_many(self, listed: Sequence[Listed]) -> Sequence[Verdict | Exception]:
        self.lists.append(len(listed))
        return await super().visit_many(listed)

    async def visit_alone(self, visit: Visit, body: Body) -> Verdict:
        """A visit in a transaction of its own."""
        self.alone += 1
        return await super().visit(visit, body)


class _Underneath:
    """The same fence, where what cannot share is visited alone."""

    def __init__(self, fence: SharingFence) -> None:
        self._fence = fence

    @property
    def retention(self) -> float:
        return self._fence.retention

    async def visit(self, visit: Visit, body: Body) -> Verdict:
        return await self._fence.visit_alone(visit, body)

    async def visit_many(self, listed: Sequence[Listed]) -> Sequence[Verdict | Exception]:
        return await self._fence.visit_many(listed)

    async def close(self) -> None:
        await self._fence.close()
