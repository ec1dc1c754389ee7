"""Whatever happens to the broker: all transactions end right, new ones are taken meanwhile, and nothing spins.

Promise 6 of DESIGN.md: RabbitMQ may lose everything.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.rabbitmq.broker import forget_queues
from tests.rabbitmq.ends import until
from tests.rabbitmq.installation import installation
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitMQ

OUTAGE = float(os.environ.get("TCC_TEST_OUTAGE", "0"))
"""Seconds for which it is stopped at least; `make test-outage` makes it 30."""


@pytest.fixture
def names(name: str) -> tuple[str, str]:
    return name, f"{name}-too"


async def test_stopped_and_started_under_load(broker: RabbitMQ, names: tuple[str, str]) -> None:
    loop = asyncio.get_running_loop()
    away_until = loop.time() + OUTAGE
    async with installation(broker.url, *names) as running:
        try:
            async with running.traffic(clients=4):
                await running.until_taken(20)
                await asyncio.to_thread(broker.stop)
                await until(lambda: running.courier.waiting > 0)
                published = running.courier.published
                await running.until_taken(100)
                while loop.time() < away_until:
                    await running.until_taken(20)
                assert running.courier.published == published  # nothing can leave, and nobody tries
                assert running.courier.waiting <= 2 * running.engine.open_transactions
        finally:
            await asyncio.to_thread(broker.start)
        await running.all_end_confirmed()
        await until(lambda: running.courier.waiting == 0)  # repeats that were due meanwhile leave too


async def test_killed_and_started_under_load(broker: RabbitMQ, names: tuple[str, str]) -> None:
    loop = asyncio.get_running_loop()
    async with installation(broker.url, *names) as running:
        try:
            async with running.traffic(clients=4):
                # RabbitMQ 3.10 leaves a queue without a leader when it dies within about a second of its declaration.
                grown = loop.time() + 4.0
                while loop.time() < grown:
                    await running.until_taken(20)
                await asyncio.to_thread(broker.kill)
                await running.until_taken(100)
        finally:
            await asyncio.to_thread(broker.start)
        await running.all_end_confirmed()


async def test_its_queues_are_deleted(broker: RabbitMQ, names: tuple[str, str]) -> None:
    async with installation(broker.url, *names) as running:
        async with running.traffic(clients=4):
            for _ in range(3):
                await running.until_taken(20)
                await forget_queues(broker.url, *names)
                # Not sooner: where deletions meet declarations, RabbitMQ 3.10 itself may lose its mind.
                await running.all_end_confirmed()
        await running.all_end_confirmed()


async def test_its_vhost_is_wiped(broker: RabbitMQ, names: tuple[str, str]) -> None:
    vhost = names[0]
    await asyncio.to_thread(_make_vhost, broker, vhost)
    async with installation(f"{broker.url}{vhost}", *names) as running:
        async with running.traffic(clients=4):
            await running.until_taken(20)
            await asyncio.to_thread(broker.control, "delete_vhost", vhost)
            await running.until_taken(50)
            await asyncio.to_thread(_make_vhost, broker, vhost)
            await running.until_taken(20)
        await running.all_end_confirmed()
    await asyncio.to_thread(broker.control, "delete_vhost", vhost)


async def test_a_memory_alarm(broker: RabbitMQ, names: tuple[str, str]) -> None:
    async with installation(broker.url, *names, publish_timeout=0.3) as running:
        try:
            async with running.traffic(clients=4):
                await running.until_taken(20)
                await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "0")
                await running.until_taken(20)  # the publish that meets the alarm is stopped by it
                await until(lambda: running.courier.waiting > 0)
                published = running.courier.published
                await running.until_taken(200)
                assert running.courier.published - published <= 2  # at most one more to each participant
                assert running.courier.waiting <= 2 * running.engine.open_transactions
        finally:
            await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "0.6")
        await running.all_end_confirmed()


async def test_it_is_paused(broker: RabbitMQ, names: tuple[str, str]) -> None:
    async with installation(broker.url, *names) as running:
        try:
            async with running.traffic(clients=4):
                await running.until_taken(20)
                broker.pause()
                published = running.courier.published
                started = asyncio.get_running_loop().time()
                await running.until_taken(200)
                seconds = asyncio.get_running_loop().time() - started
                # Each publish waits five seconds for its confirmation, and each participant has one at a time.
                assert running.courier.published - published <= 2 * (seconds / 5 + 1)
        finally:
            broker.resume()
        await running.all_end_confirmed()


@pytest.mark.parametrize("side", ["manager", "participants"])
async def test_a_connection_that_is_half_open(broker: RabbitMQ, names: tuple[str, str], side: str) -> None:
    async with Proxy(broker.port) as proxy:
        through = f"amqp://127.0.0.1:{proxy.port}/"
        urls = (through, broker.url) if side == "manager" else (broker.url, through)
        async with installation(urls[0], *names, consumer_url=urls[1], heartbeat=1) as running:
            async with running.traffic(clients=4):
                await running.until_taken(20)
                proxy.freeze()  # neither side is told
                await running.until_taken(50)
                proxy.forget()  # later connections pass, those that hang never do
                await running.until_taken(20)
            await running.all_end_confirmed()


async def test_connections_that_are_cut_again_and_again(broker: RabbitMQ, names: tuple[str, str]) -> None:
    async with Proxy(broker.port) as proxy:
        url = f"amqp://127.0.0.1:{proxy.port}/"
        async with installation(url, *names) as running:
            async with running.traffic(clients=4):
                for _ in range(5):
                    await running.until_taken(20)
                    proxy.cut()
            await running.all_end_confirmed()


def _make_vhost(broker: RabbitMQ, vhost: str) -> None:
    broker.control("add_vhost", vhost)
    broker.control("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
