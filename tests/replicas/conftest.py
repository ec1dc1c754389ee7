"""Two managers on one log: in memory, and in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.replicas.installation import Installation, Replica


@pytest.fixture(params=["memory", "postgres"])
async def installation(request: pytest.FixtureRequest) -> AsyncIterator[Installation]:
    url = None if request.param == "memory" else request.getfixturevalue("postgres_server").database()
    installation = Installation(url, lease_ttl=1.5)
    yield installation
    await installation.close()


@pytest.fixture
async def a(installation: Installation) -> Replica:
    return await installation.start("a")


@pytest.fixture
async def b(installation: Installation, a: Replica) -> Replica:
    return await installation.start("b")
