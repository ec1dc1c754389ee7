"""Redis stops, falls silent, refuses, forgets: work goes on, each bypass is counted, each outage logged once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis as Client

import tcc
from tcc.fence import Phase
from tcc.lock import Busy, Held, _redis
from tests.lock.waiting import gone
from tests.participant.scripted import Branch, Direct, Scripted, make_server
from tests.servers.redis import Redis

Make = Callable[[str], tcc.RedisLock]


async def hold(lock: tcc.RedisLock, key: str) -> Held:
    held = await lock.acquire(key, 35.0)
    assert not isinstance(held, Busy)
    return held


async def until_it_serves(lock: tcc.RedisLock) -> None:
    async with asyncio.timeout(10):
        bypasses = -1
        while bypasses != lock.bypasses:
            bypasses = lock.bypasses
            await (await hold(lock, "{default/again}:0")).release()
            await asyncio.sleep(0.02)


def outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return ["begins" if "does not serve" in record.message else "ends" for record in caplog.records]


async def test_a_stopped_redis_is_gone_on_without_and_used_again_when_it_is_back(
    own_redis: Redis, make: Make, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    lock, other = make(own_redis.url), make(own_redis.url)
    held = await hold(lock, key)
    own_redis.kill()
    for number in range(50):
        await (await hold(lock, f"{key}{number}")).release()
    await held.release()
    assert lock.bypasses == 50

    own_redis.start()
    await until_it_serves(lock)
    bypasses = lock.bypasses
    await hold(lock, key)
    assert isinstance(await other.acquire(key, 35.0), Busy)
    assert lock.bypasses == bypasses
    assert outages(caplog) == ["begins", "ends"]


async def test_a_silent_redis_costs_one_command_its_timeout_and_the_others_nothing(
    own_redis: Redis, make: Make, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    lock = make(own_redis.url)
    held = await hold(lock, key)
    own_redis.pause()
    await hold(lock, f"{key}1")
    begun = time.monotonic()
    for number in range(2, 500):
        await hold(lock, f"{key}{number}")
    assert time.monotonic() - begun < 5.0  # a timeout each would be two minutes
    assert lock.bypasses == 499

    await held.release()  # owed, and given back once Redis listens
    own_redis.resume()
    async with Client.from_url(own_redis.url) as client:
        await gone(client, f"tcc:lock:{key}")
    await until_it_serves(lock)
    assert outages(caplog) == ["begins", "ends"]


async def test_an_outage_ends_also_where_releases_had_to_make_room_for_others_while_redis_was_asked(
    own_redis: Redis, make: Make, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis, "_OWED_MAX", 2)
    lock = make(own_redis.url)
    held = [await hold(lock, f"{key}{number}") for number in range(4)]
    exchange, asked, go_on = lock._exchange, asyncio.Event(), asyncio.Event()

    async def slow(asks: Sequence[_redis._Asked]) -> list[_redis._Reply]:
        if lock._away and sum(len(each.helds) for each in asks) == 2:
            asked.set()
            await go_on.wait()
        return await exchange(asks)

    monkeypatch.setattr(lock, "_exchange", slow)
    own_redis.kill()
    for one in held[:2]:
        await one.release()
    while not lock._away:  # noqa: ASYNC110  it says nothing by itself
        await asyncio.sleep(0)
    own_redis.start()
    await asked.wait()
    owed = set(lock._owed)
    for one in held[2:]:
        await one.release()
    while owed & set(lock._owed):  # noqa: ASYNC110  it says nothing by itself
        await asyncio.sleep(0)
    go_on.set()
    await until_it_serves(lock)


async def test_commands_that_wait_together_do_not_wait_out_a_timeout_each(
    own_redis: Redis, make: Make, key: str
) -> None:
    lock = make(own_redis.url)
    await hold(lock, key)
    own_redis.pause()
    begun = time.monotonic()
    await asyncio.gather(*(hold(lock, f"{key}{number}") for number in range(6000)))  # twelve lists
    assert time.monotonic() - begun < 8 * 0.25  # a timeout each would be twelve
    assert lock.bypasses == 6000


async def test_a_redis_that_refuses_to_write_is_gone_on_without(
    own_redis: Redis, make: Make, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    lock = make(own_redis.url)
    held = await hold(lock, key)
    async with Client.from_url(own_redis.url) as client:
        await client.config_set("maxmemory", "1")
        for number in range(5):
            await (await hold(lock, f"{key}{number}")).release()
        assert lock.bypasses == 5
        await held.release()  # deleting is allowed
        await gone(client, f"tcc:lock:{key}")
        await client.config_set("maxmemory", "0")
        await hold(lock, key)
        assert lock.bypasses == 5
        assert await client.exists(f"tcc:lock:{key}")
    assert outages(caplog) == ["begins", "ends"]
    assert "command not allowed when used memory > 'maxmemory'" in caplog.text


async def test_wrong_credentials_are_said_and_work_goes_on(
    own_redis: Redis, make: Make, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    lock = make(own_redis.url.replace("redis://", "redis://user:secret@"))
    with caplog.at_level(logging.WARNING, "tcc.lock"):
        await hold(lock, key)
    assert "invalid username-password pair" in caplog.text
    assert "secret" not in caplog.text


async def acl(client: Client, *rules: str) -> None:
    await client.execute_command("ACL", "SETUSER", "weak", *rules)  # type: ignore[no-untyped-call]  # redis-py's own


async def test_missing_permissions_are_said_work_goes_on_and_a_grant_is_enough(
    own_redis: Redis, make: Make, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client.from_url(own_redis.url) as client:
        await acl(client, "on", ">pw", "+ping", "+info")
        lock = make(own_redis.url.replace("redis://", "redis://weak:pw@"))
        with caplog.at_level(logging.WARNING, "tcc.lock"):
            for number in range(5):
                await (await hold(lock, f"{key}{number}")).release()
            assert lock.bypasses == 5
            await acl(client, "~tcc:lock:*", "+@all")
            await hold(lock, key)
        assert lock.bypasses == 5
        assert await client.exists(f"tcc:lock:{key}")
    assert outages(caplog) == ["begins", "ends"]
    assert "no permissions" in caplog.text


async def test_a_flush_at_every_moment_costs_nothing_but_the_lock(own_redis: Redis, make: Make, key: str) -> None:
    lock = make(own_redis.url)
    done = asyncio.Event()

    async def flush() -> None:
        async with Client.from_url(own_redis.url) as client:
            while not done.is_set():
                await client.flushall()
                await client.script_flush()

    async def work(number: int) -> None:
        for _ in range(30):
            await (await hold(lock, f"{key}{number}")).release()

    flushing = asyncio.create_task(flush())
    await asyncio.gather(*(work(number) for number in range(16)))
    done.set()
    await flushing
    assert lock.bypasses <= 5  # where the scripts were flushed twice within one list


async def test_closing_while_redis_is_silent_is_bounded(own_redis: Redis, make: Make, key: str) -> None:
    lock = make(own_redis.url)
    await hold(lock, key)
    own_redis.pause()
    begun = time.monotonic()
    waiting = asyncio.create_task(lock.acquire(f"{key}1", 35.0))
    await asyncio.sleep(0)
    await lock.close()
    assert not isinstance(await waiting, Busy)
    assert time.monotonic() - begun < 5.0


async def test_one_command_at_two_instances_has_one_effect_also_without_redis(
    own_redis: Redis, make: Make, tmp_path: Path
) -> None:
    scripted = Scripted()
    url = f"sqlite+aiosqlite:///{tmp_path}/service.db"
    fences = [tcc.SqlFence(url), tcc.SqlFence(url)]
    await fences[0].create_tables()
    ways = [Direct(make_server(scripted, fence, lock=make(own_redis.url))) for fence in fences]
    own_redis.kill()
    await ways[0].attempt(Branch())
    told = await asyncio.gather(*(way.settle(Branch(), Phase.CONFIRM) for way in ways * 5))

    assert {answer.kind for answer in told} <= {"DONE", "BUSY"}
    assert scripted.runs[Phase.CONFIRM] == 1
    for fence in fences:
        await fence.close()
