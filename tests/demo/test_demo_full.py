"""The demo on the whole stack, as processes: on servers of its own, and on somebody's, which it leaves alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from redis.asyncio import Redis as RedisClient
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from services.demo._processes import CHECKOUT
from services.demo._transfers import COUNT
from services.demo.full._shop import ORDERS
from tests.demo.test_demo import processes_with
from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.running import Running, RunningPostgres
from tests.tracing.receiver import receiver

LIMIT = 240
"""Seconds for a test: a server's start and the demo itself take half a minute on a quiet machine."""


@pytest.fixture
def environment(servers_folder: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """Temporary folders are made in one that PostgreSQL's own user may enter."""
    folder = servers_folder / "".join(letter for letter in request.node.name if letter.isalnum())
    folder.mkdir(mode=0o755)
    return {**os.environ, "TMPDIR": str(folder)}


@pytest.mark.timeout(LIMIT)
def test_money_and_stock_are_whole_after_everything_has_died_once(environment: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tools.demo_full", "--json"],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    document: dict[str, Any] = json.loads(ran.stdout)
    assert document["holds"] is True
    assert [check["claim"] for check in document["proof"] if not check["holds"]] == []
    facts = document["facts"]
    assert len(facts["told"]) == COUNT + ORDERS
    kills = ("bank_kill", "manager_kill", "shop_kill")
    assert {facts[kill]["exit_code"] for kill in kills} == {-signal.SIGKILL}
    assert facts["broker_outage"]["waiting"] > 0
    assert facts["lock_loss"]["keys"] > 0
    assert document["timeline"]["state"] == "STATE_CONFIRMED"
    folder = environment["TMPDIR"]
    assert list(Path(folder).iterdir()) == []
    assert processes_with(folder) == []


@pytest.mark.timeout(LIMIT)
def test_sigterm_while_rabbitmq_is_away_ends_all_that_was_started(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tools.demo_full"],
        cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert any("RabbitMQ is stopped" in line for line in process.stdout)
        process.terminate()
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143
    assert processes_with(environment["TMPDIR"]) == []


@pytest.mark.timeout(LIMIT)
async def test_somebodys_servers_are_left_as_they_were(
    rabbitmq_server: RabbitMQ | Running,
    redis_server: Redis | Running,
    postgres_server: Postgres | RunningPostgres,
    environment: dict[str, str],
) -> None:
    url = postgres_server.database()
    databases = await databases_of(url)
    async with receiver() as jaeger, RedisClient.from_url(redis_server.url) as client:
        await client.set("somebodys", "own")
        servers = ("--rabbitmq", rabbitmq_server.url, "--redis", redis_server.url, "--postgres", url)
        with subprocess.Popen(  # noqa: ASYNC220  starting it takes no time
            [sys.executable, "-m", "tcc", "demo", "--json", *servers, "--otlp", jaeger.endpoint],
            cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            spans = await jaeger.until(lambda spans: any(span.service == "demo" for span in spans))
            out, _ = await asyncio.to_thread(process.communicate)  # the receiver goes on receiving
        assert await client.get("somebodys") == b"own"
        await client.delete("somebodys")
    assert process.returncode == 0, out
    assert spans
    facts = json.loads(out)["facts"]
    assert (facts["broker_outage"], facts["lock_loss"]) == (None, None)
    assert await databases_of(url) == databases
    async with await aio_pika.connect(rabbitmq_server.url) as connection:
        for participant in (*facts["after"], *facts["tried"]):
            channel = await connection.channel()
            with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
                await channel.get_queue(f"tcc.commands.{participant}")


def test_a_server_that_is_not_named_is_asked_for() -> None:
    command = [sys.executable, "-m", "services.demo", "--redis", "redis://127.0.0.1:1/0"]
    ran = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "needs --rabbitmq, --postgres too" in ran.stderr


def test_a_server_that_is_away_is_named(environment: dict[str, str]) -> None:
    urls = (
        "--redis",
        "redis://127.0.0.1:1/0",
        "--rabbitmq",
        "amqp://127.0.0.1:1/",
        "--postgres",
        "postgresql://127.0.0.1:1/x",
    )
    command = [sys.executable, "-m", "services.demo", *urls]
    ran = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("The demo failed: RabbitMQ at --rabbitmq: ")


async def databases_of(url: str) -> set[str]:
    """The demo's databases on a server."""
    engine = create_async_engine(make_url(url))
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT datname FROM pg_database WHERE datname LIKE 'tcc_demo_%'"))
        found = {str(row.datname) for row in rows}
    await engine.dispose()
    return found
