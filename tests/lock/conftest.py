"""The locks under test: none, and Redis; and a Redis of one's own for what it must survive."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis as Client

import tcc
from tcc.lock import Lock
from tests.servers.redis import Redis
from tests.servers.running import Running


@pytest.fixture
def key() -> str:
    """A branch that no other test uses."""
    return f"{{default/{secrets.token_hex(6)}}}:0"


@pytest.fixture
async def make() -> AsyncIterator[Callable[[str], tcc.RedisLock]]:
    """Makes locks on a URL, each as another instance of a participant would have it, and closes them."""
    made: list[tcc.RedisLock] = []

    def make(url: str) -> tcc.RedisLock:
        made.append(tcc.RedisLock(url))
        return made[-1]

    yield make
    for lock in made:
        await lock.close()


@pytest.fixture
def lock(redis_server: Redis | Running, make: Callable[[str], tcc.RedisLock]) -> tcc.RedisLock:
    return make(redis_server.url)


@pytest.fixture
def other(redis_server: Redis | Running, make: Callable[[str], tcc.RedisLock]) -> tcc.RedisLock:
    """The lock of another instance."""
    return make(redis_server.url)


@pytest.fixture(params=["none", "redis"])
def any_lock(request: pytest.FixtureRequest) -> Lock:
    if request.param == "none":
        return tcc.NoLock()
    lock: tcc.RedisLock = request.getfixturevalue("lock")
    return lock


@pytest.fixture
async def client(redis_server: Redis | Running) -> AsyncIterator[Client]:
    """To look at the server, and to spoil things."""
    async with Client.from_url(redis_server.url, decode_responses=True) as client:
        yield client
