"""Two instances of a bank on one database and one queue: one is killed with work in hand, or works beside the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
from redis.asyncio import Redis as RedisClient
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from services.accounts._database import ACCOUNTS
from tests.rabbitmq.ends import until
from tests.servers.redis import Redis
from tests.spine.traffic import Serve
from tests.stack.bank import HANDLER_TIMEOUT
from tests.stack.books import Asked, Run
from tests.stack.conftest import Near
from tests.stack.installation import NearBank, Stack
from tests.stack.load import Load, planned, reserve

Clients = tuple[tcc.Manager, tcc.Manager]

WITHIN = 10.0
"""Seconds in which a process that was told to end has ended."""
_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")


@asynccontextmanager
async def account_locked(run: Run, bank: str) -> AsyncIterator[Callable[[int], Awaitable[bool]]]:
    """Somebody else holds the row of the run's first account: whoever changes it waits.

    Gives a question: do so many wait for a row now?
    """
    engine = create_async_engine(run.stack.database(bank))

    async def waiting(count: int) -> bool:
        async with engine.connect() as connection:  # anew: within a transaction, the view would stay as it was
            return (await connection.scalar(_WAITING) or 0) >= count

    async with engine.begin() as connection:
        row = select(ACCOUNTS.c.account).where(ACCOUNTS.c.account == run.accounts[0])
        await connection.execute(row.with_for_update())
        yield waiting
    await engine.dispose()


async def test_an_instance_is_killed_with_commands_in_hand_and_the_other_carries_them_out(
    stack: Stack, run: Run, clients: Clients
) -> None:
    load = Load(run, clients, stack.far)
    async with run.audited():
        async with load.flowing():
            await load.until_told(30)
        in_hand = [f"{run.name}-{number}" for number in range(1000, 1008)]
        async with account_locked(run, "a"):  # so that both surely have some in hand, and cannot end them
            for gid in in_hand:
                asked = run.asked[gid] = Asked(*stack.far[::-1], run.accounts[0], 1)
                await clients[0].execute(*planned(asked), gid=gid)
                asked.told = tcc.Decision.CONFIRM
            await until(partial(_some_lock, stack.servers.redis, in_hand, held_for=0.0))
            await stack.helper.killed()
        await until(partial(_some_lock, stack.servers.redis, in_hand, held_for=HANDLER_TIMEOUT + 0.5))
        assert {(await clients[0].get(gid)).state for gid in in_hand} >= {tcc.State.CONFIRMING}
        await stack.helper.started()
        await run.check(clients[0])


async def _some_lock(url: str, gids: list[str], held_for: float) -> bool:
    """Whether there is a lock on one of their credits that is older; no living instance works on anything for long."""
    async with RedisClient.from_url(url) as redis:
        left = [await redis.pttl(f"tcc:lock:{{default/{gid}}}:1") for gid in gids]
    return any(0 < ms < (HANDLER_TIMEOUT + 5.0 - held_for) * 1000 for ms in left)


async def test_a_bank_is_killed_and_another_told_to_end_under_load(stack: Stack, run: Run, clients: Clients) -> None:
    load = Load(run, clients, stack.far)
    async with run.audited():
        async with load.flowing():
            await load.until_told(30)
            await stack.bank_b.killed()
            await stack.bank_b.started()
            await load.until_told(20)
            assert await stack.bank_a.ended(WITHIN) == 0
            await stack.bank_a.started()
            await load.until_told(20)
        await run.check(clients[0])


@pytest.fixture
async def instances(stack: Stack, own_redis: Redis) -> AsyncIterator[tuple[NearBank, NearBank]]:
    """Two of near-a: the first serves the Tries; both have a Redis of their own."""
    made = (NearBank(stack.near[0], stack.near_ports[0]), NearBank(stack.near[0], 0))
    yield made
    for one in made:
        await one.stop()


async def goes_on_alone(serve: Serve, context: object) -> bytes:
    """Who called goes away, and the handler does not hear of it."""
    return await asyncio.shield(asyncio.ensure_future(serve()))


@pytest.mark.parametrize("redis", ["there", "gone"])
async def test_a_try_in_flight_at_one_instance_is_cancelled_by_a_command_at_the_other(
    stack: Stack, run: Run, clients: Clients, instances: Near, own_redis: Redis, redis: str
) -> None:
    one, other = instances
    await one.start(stack.database(one.name), own_redis.url, rabbitmq=None)
    await other.start(stack.database(one.name), own_redis.url, stack.servers.rabbitmq)
    if redis == "gone":
        own_redis.kill()
    one.traffic.next("TryDebit", goes_on_alone)
    gid = f"{run.name}-0"
    run.asked[gid] = Asked(one.name, stack.far[1], run.accounts[0], 70, tcc.Decision.CANCEL)

    async def body() -> None:
        async with clients[0].transaction(gid=gid) as tx:
            await reserve(tx, run.asked[gid])

    async with run.audited():
        async with account_locked(run, "a") as waiting:
            trying = asyncio.create_task(body())
            await until(partial(waiting, 1))
            await clients[1].cancel(gid)
            await until(lambda: other.messages > 0)  # and what it holds is the Cancel
            assert (await clients[0].get(gid)).state is tcc.State.CANCELLING
            assert await waiting(1)
        with pytest.raises((tcc.TransactionCancelled, tcc.BranchRefused)):
            await trying
        await run.check(clients[0])
    assert (await run.books("a")).fence == {(gid, "0"): "CANCELLED"}


async def test_one_command_at_two_instances_at_the_same_moment_without_redis_has_one_effect(
    stack: Stack, run: Run, clients: Clients, instances: Near, own_redis: Redis
) -> None:
    for instance in instances:
        await instance.start(stack.database(instance.name), own_redis.url, stack.servers.rabbitmq)
    own_redis.kill()
    gid = f"{run.name}-0"
    asked = run.asked[gid] = Asked(stack.far[1], instances[0].name, run.accounts[0], 70, tcc.Decision.CONFIRM)
    async with run.audited():
        async with account_locked(run, "a") as waiting:
            await clients[0].execute(*planned(asked), gid=gid)
            await until(partial(waiting, 2))  # nobody answers, so the command is sent again
            assert all(instance.messages and instance.bypasses for instance in instances)
        await run.check(clients[0])
