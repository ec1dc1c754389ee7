"""Servers for tests, one of each a test process, started when the first test asks for it.

Where a URL stands in the environment (TCC_TEST_REDIS_URL, TCC_TEST_POSTGRES_URL, TCC_TEST_RABBITMQ_URL), that running
server is used instead. Tests that stop, pause or starve a server start one of their own (`tests.servers`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.running import Running, RunningPostgres


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """A folder that the servers' own users may enter, which pytest's folders are not."""
    with tempfile.TemporaryDirectory(prefix="tcc-servers-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def redis_server(servers_folder: Path) -> Iterator[Redis | Running]:
    """A Redis: its `url`."""
    if url := os.environ.get("TCC_TEST_REDIS_URL"):
        yield Running(url)
        return
    server = Redis(servers_folder / "redis")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis for one test alone, to be stopped and paused."""
    server = Redis(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path) -> Iterator[Postgres | RunningPostgres]:
    """A PostgreSQL: its `database()` makes an empty database and gives its URL."""
    if url := os.environ.get("TCC_TEST_POSTGRES_URL"):
        yield RunningPostgres(url)
        return
    server = Postgres(servers_folder / "postgres")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_postgres(servers_folder: Path, request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A PostgreSQL for one test alone, to be stopped and killed."""
    server = Postgres(servers_folder / "".join(letter for letter in request.node.name if letter.isalnum()))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def rabbitmq_server(servers_folder: Path) -> Iterator[RabbitMQ | Running]:
    """A RabbitMQ: its `url`."""
    if url := os.environ.get("TCC_TEST_RABBITMQ_URL"):
        yield Running(url)
        return
    server = RabbitMQ(servers_folder / "rabbitmq")
    server.start()
    yield server
    server.stop()
