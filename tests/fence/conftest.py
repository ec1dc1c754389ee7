"""The fences under test, each made fresh: rows in memory, and rows in an SQLite file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tcc.fence import Fence, MemoryFence, SqlFence


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/service.db"


@pytest.fixture
async def sql(url: str) -> AsyncIterator[SqlFence]:
    fence = SqlFence(url)
    await fence.create_tables()
    yield fence
    await fence.close()


@pytest.fixture
async def second(url: str, sql: SqlFence) -> AsyncIterator[SqlFence]:
    """Another engine on the file of `sql`, as another process would have."""
    fence = SqlFence(url)
    yield fence
    await fence.close()


@pytest.fixture(params=["memory", "sqlite"])
def fence(request: pytest.FixtureRequest) -> Fence:
    if request.param == "memory":
        return MemoryFence()
    fence: Fence = request.getfixturevalue("sql")
    return fence
