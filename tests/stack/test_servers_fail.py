"""PostgreSQL, Redis and RabbitMQ fail under two managers and their banks: no wrong answer, no lost decision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis as RedisClient
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import tcc
from tests.rabbitmq.broker import forget_queues
from tests.rabbitmq.ends import until
from tests.servers.postgres import Postgres, through
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.running import Running
from tests.spine.traffic import waits_for
from tests.stack.books import Asked, Run
from tests.stack.conftest import Near, make_run
from tests.stack.installation import LEASE, NearBank, Servers, Stack
from tests.stack.load import PATIENCE, Load, planned

Clients = tuple[tcc.Manager, tcc.Manager]


async def test_postgresql_of_log_and_fences_is_killed_and_stopped_under_load(
    own_postgres: Postgres, rabbitmq_server: RabbitMQ | Running, own_redis: Redis, tmp_path: Path
) -> None:
    stack = Stack(await Servers.prepared(own_postgres, rabbitmq_server.url, own_redis.url), tmp_path)
    loop = asyncio.get_running_loop()
    try:
        await stack.start()
        run = await make_run(stack)
        async with stack.client(0) as first, stack.client(1) as second:
            load = Load(run, (first, second), stack.far)
            async with run.audited():
                async with load.flowing():
                    await load.until_told(30)
                    own_postgres.kill()
                    await asyncio.to_thread(own_postgres.start)
                    await load.until_told(20)
                    await asyncio.to_thread(own_postgres.stop)
                    stopped = loop.time()
                    await until(lambda: loop.time() > stopped + LEASE + 1)  # nobody has a lease any more
                    await asyncio.to_thread(own_postgres.start)
                    await load.until_told(30)
                await run.check(first)
        assert any("lease_lapsed" in manager.said for manager in stack.managers)
        assert any("append_unknown" in manager.said for manager in stack.managers)
    finally:
        stack.stop()


_EVERY_SEVENTH = """
CREATE SEQUENCE troubles;
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF nextval('troubles') % 7 = 0 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER trouble BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION trouble();
"""
_NO_MORE = "DROP FUNCTION trouble() CASCADE; DROP SEQUENCE troubles;"


@asynccontextmanager
async def deadlocks(url: str, table: str) -> AsyncIterator[None]:
    """Each seventh row that is written there is said to be in a deadlock, and its statement is undone."""
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")

    async def execute(statements: str) -> None:
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            assert raw.driver_connection is not None
            await raw.driver_connection.execute(statements)

    await execute(_EVERY_SEVENTH.format(table=table))
    try:
        yield
        async with engine.connect() as connection:
            assert (await connection.scalar(text("SELECT last_value FROM troubles")) or 0) > 20
    finally:
        await execute(_NO_MORE)
        await engine.dispose()


async def test_deadlocks_in_log_and_fences_under_load(stack: Stack, run: Run, clients: Clients) -> None:
    load = Load(run, clients, stack.far)
    async with run.audited():
        async with (
            load.flowing(),
            deadlocks(stack.log, "tcc_transaction"),
            deadlocks(stack.database("a"), "accounts"),
            deadlocks(stack.database("b"), "tcc_fence"),
        ):
            await load.until_told(60)
        await run.check(clients[0])


async def test_a_commit_of_the_decision_whose_answer_is_lost(stack: Stack, run: Run, near: Near) -> None:
    """The manager finds out that it was written, or writes the same again; its client hears what is in the log."""
    gid = f"{run.name}-0"
    asked = run.asked[gid] = Asked(*stack.near, run.accounts[0], 70)
    async with Proxy(make_url(stack.log).port or 0) as proxy:
        far_off = stack.manager("far-off", through(proxy, stack.log))
        await far_off.started()
        try:
            async with tcc.Manager(far_off.address) as client, run.audited():
                go = asyncio.Event()
                near[0].traffic.next("TryDebit", waits_for(go))
                telling = asyncio.create_task(client.execute(*planned(asked), gid=gid))
                await near[0].traffic.until("TryDebit")
                proxy.lose_reply_to(gid.encode())  # what is written of it next is the decision
                go.set()
                await telling
                asked.told = tcc.Decision.CONFIRM
                assert proxy.lost == 1
                assert "append_unknown" in far_off.said
                await run.check(client)
        finally:
            far_off.stop()


async def test_no_free_connection_in_the_banks_and_more_reads_than_the_managers_have_connections(
    stack: Stack, run: Run, clients: Clients
) -> None:
    narrow = create_async_engine(stack.database("a"), pool_size=1, max_overflow=0, pool_timeout=0.05)
    banks = tuple(NearBank(name, port) for name, port in zip(stack.near, stack.near_ports, strict=True))
    load = Load(run, clients, (stack.near[0], stack.near[1]))
    try:
        for bank in banks:
            engine = narrow if bank is banks[0] else stack.database(bank.name)
            await bank.start(engine, stack.servers.redis, stack.servers.rabbitmq)
        async with run.audited():
            async with load.flowing(workers=24):
                await load.until_told(20)
                async with all_taken(narrow):
                    await until(lambda: any(call.entry("tcc-attempt") == "2" for call in banks[0].traffic.arrived))
                    gids = [*run.asked][:100]
                    await asyncio.gather(*(_read(client, gid) for gid in gids for client in clients))
                await load.until_told(30)
            await run.check(clients[0])
    finally:
        for bank in banks:
            await bank.stop()
        await narrow.dispose()


@asynccontextmanager
async def all_taken(engine: AsyncEngine) -> AsyncIterator[None]:
    """Somebody has the only connection, as soon as it was free once."""
    connection = None
    async with asyncio.timeout(PATIENCE):
        while connection is None:
            with suppress(PoolTimeout):
                connection = await engine.connect()
    try:
        yield
    finally:
        await connection.close()


async def _read(client: tcc.Manager, gid: str) -> None:
    with suppress(tcc.ManagerError):  # it may not have begun
        await client.get(gid)
        assert [view.gid async for view in client.list(gids=[gid])] == [gid]


@pytest.fixture
async def on_own_redis(stack: Stack, own_redis: Redis) -> AsyncIterator[Near]:
    """The near banks, with locks in a Redis that is this test's."""
    first, second = (NearBank(name, port) for name, port in zip(stack.near, stack.near_ports, strict=True))
    for bank in (first, second):
        await bank.start(stack.database(bank.name), own_redis.url, stack.servers.rabbitmq)
    yield first, second
    for bank in (first, second):
        await bank.stop()


async def test_redis_is_flushed_all_the_time_and_rabbitmq_loses_all_queues_once(
    stack: Stack, run: Run, clients: Clients, on_own_redis: Near, own_redis: Redis
) -> None:
    lost = 0
    over = asyncio.Event()

    async def flush() -> None:
        nonlocal lost
        async with RedisClient.from_url(own_redis.url) as redis:
            while not over.is_set():
                async with redis.pipeline(transaction=True) as pipeline:
                    pipeline.dbsize()
                    pipeline.flushall()
                    keys, _ = await pipeline.execute()
                lost += keys
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 0.05)

    load = Load(run, clients, (stack.near[0], stack.near[1]))
    async with run.audited():
        flushing = asyncio.create_task(flush())
        async with load.flowing(workers=16):
            await load.until_told(40)
            await forget_queues(stack.servers.rabbitmq, *stack.near)
            await load.until_told(40)
            await until(lambda: lost > 0)
        await run.check(clients[0])
        over.set()
        await flushing


async def test_redis_is_away_silent_and_full_by_turns(
    stack: Stack, run: Run, clients: Clients, on_own_redis: Near, own_redis: Redis
) -> None:
    load = Load(run, clients, (stack.near[0], stack.near[1]))

    async def bypassed() -> None:
        """All of what is done now is done without locks, and is done."""
        before = [bank.bypasses for bank in on_own_redis]
        await load.until_told(20)
        await until(lambda: all(bank.bypasses > once for bank, once in zip(on_own_redis, before, strict=True)))

    async def used_again() -> None:
        async with RedisClient.from_url(own_redis.url) as redis:
            await until(lambda: _is_used(redis))

    async with run.audited():
        async with load.flowing():
            await load.until_told(20)
            own_redis.kill()
            await bypassed()
            await asyncio.to_thread(own_redis.start)
            await used_again()
            own_redis.pause()
            await bypassed()
            own_redis.resume()
            await used_again()
            async with RedisClient.from_url(own_redis.url) as redis:
                await redis.config_set("maxmemory", "1")
                await bypassed()
                await redis.config_set("maxmemory", "0")
            await used_again()
        await run.check(clients[0])


async def _is_used(redis: RedisClient) -> bool:
    return bool(await redis.keys("tcc:lock:*"))
