"""One broker a test process, which tests may stop, pause and starve as long as they leave it well."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.rabbitmq import RabbitMQ
from tests.servers.running import Running


@pytest.fixture(scope="session", name="broker")
def _broker(rabbitmq_server: RabbitMQ | Running, servers_folder: Path) -> Iterator[RabbitMQ]:
    if isinstance(rabbitmq_server, RabbitMQ):
        yield rabbitmq_server
        return
    own = RabbitMQ(servers_folder / "rabbitmq-own")  # somebody else's must not be stopped
    own.start()
    yield own
    own.stop()


@pytest.fixture
def name() -> str:
    """A participant's name that no other test has, so that tests do not meet in a queue."""
    return f"bank-{secrets.token_hex(4)}"
