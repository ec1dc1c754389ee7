"""The fences under test, each made fresh: rows in memory, in an SQLite file, and in PostgreSQL.

Those in SQL are tested in both ways: each visit in a transaction of its own, and in lists as for batchable handlers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tcc.fence import Fence, MemoryFence, SqlFence
from tests.fence.sharing import SharingFence
from tests.servers.postgres import Postgres
from tests.servers.running import RunningPostgres


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/service.db"


@pytest.fixture
def postgres_url(postgres_server: Postgres | RunningPostgres) -> str:
    return postgres_server.database()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """A database that is new and empty."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=[SqlFence, SharingFence], ids=["alone", "shared"])
async def sql(url: str, request: pytest.FixtureRequest) -> AsyncIterator[SqlFence]:
    fence: SqlFence = request.param(url)
    await fence.create_tables()
    yield fence
    await fence.close()


@pytest.fixture
async def second(url: str, sql: SqlFence) -> AsyncIterator[SqlFence]:
    """Another engine on the database of `sql`, as another process would have."""
    fence = type(sql)(url)
    yield fence
    await fence.close()


@pytest.fixture(params=["memory", "sqlite", "postgres", "sqlite shared", "postgres shared"])
async def fence(request: pytest.FixtureRequest) -> AsyncIterator[Fence]:
    if request.param == "memory":
        yield MemoryFence()
        return
    database, _, shared = request.param.partition(" ")
    url: str = request.getfixturevalue(f"{database}_url")
    fence = SharingFence(url) if shared else SqlFence(url)
    await fence.create_tables()
    yield fence
    await fence.close()
