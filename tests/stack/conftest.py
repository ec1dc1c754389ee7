"""One stack a test process, whose programs tests may kill as long as they start them again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import TypeAlias

import pytest

import tcc
from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.running import Running, RunningPostgres
from tests.spine.installation import credit
from tests.stack.books import Run
from tests.stack.installation import NearBank, Servers, Stack
from tests.stack.load import PATIENCE

OPENING = 10_000

Near: TypeAlias = tuple[NearBank, NearBank]


@pytest.fixture(scope="session")
def stack(
    postgres_server: Postgres | RunningPostgres,
    rabbitmq_server: RabbitMQ | Running,
    redis_server: Redis | Running,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """All programs run."""

    async def started() -> Stack:
        servers = await Servers.prepared(postgres_server, rabbitmq_server.url, redis_server.url)
        made = Stack(servers, tmp_path_factory.mktemp("stack"))
        await made.start()
        return made

    stack = asyncio.run(started())
    yield stack
    stack.stop()


@pytest.fixture
async def run(stack: Stack) -> Run:
    """This test's own accounts and gids."""
    return await make_run(stack)


async def make_run(stack: Stack, accounts: int = 4) -> Run:
    """A run on a stack."""
    name = secrets.token_hex(3)
    names = tuple(f"{name}-{number}" for number in range(accounts))
    await stack.open(*names, available=OPENING)
    return Run(stack, name, names, OPENING)


@pytest.fixture
async def clients(stack: Stack) -> AsyncIterator[tuple[tcc.Manager, tcc.Manager]]:
    """One that goes to the first manager as long as it is there, and one that goes to the second."""
    async with stack.client(0, 1) as first, stack.client(1, 0) as second:
        yield first, second


@pytest.fixture
async def near(stack: Stack) -> AsyncIterator[Near]:
    """The banks in this process."""
    banks = (NearBank(stack.near[0], stack.near_ports[0]), NearBank(stack.near[1], stack.near_ports[1]))
    for bank in banks:
        await bank.start(stack.database(bank.name), stack.servers.redis, stack.servers.rabbitmq)
    for number in range(len(stack.managers)):
        async with stack.client(number) as client:
            await asyncio.gather(*(_reached(client, bank) for bank in banks))
    yield banks
    for bank in banks:
        await bank.stop()


async def _reached(client: tcc.Manager, bank: NearBank) -> None:
    """The manager's connection to a bank stands again, whatever it had to wait for."""
    with pytest.raises(tcc.TransactionCancelled, match="there is no account"):
        await client.execute(credit(bank.name, 1, account="nobody"), timeout=PATIENCE)
    bank.traffic.arrived.clear()
