"""The lock in Redis, on a server that works: who holds it, for how long, and what goes over the wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from redis.asyncio import Redis as Client

import tcc
from tcc.lock import Busy, Held
from tests.lock.waiting import gone
from tests.servers.proxy import Proxy
from tests.servers.redis import Redis


async def hold(lock: tcc.RedisLock, key: str, ttl: float = 35.0) -> Held:
    held = await lock.acquire(key, ttl)
    assert not isinstance(held, Busy)
    return held


async def test_a_lock_held_elsewhere_is_busy_with_what_is_left_of_it(
    lock: tcc.RedisLock, other: tcc.RedisLock, key: str
) -> None:
    await hold(lock, key, 35.0)
    answer = await other.acquire(key, 99.0)
    assert isinstance(answer, Busy)
    assert 30.0 < answer.remaining <= 35.0


async def test_two_deliveries_at_one_instance_do_not_share_a_lock(lock: tcc.RedisLock, key: str) -> None:
    answers = await asyncio.gather(*(lock.acquire(key, 35.0) for _ in range(20)))
    assert sum(isinstance(answer, Busy) for answer in answers) == 19


async def test_a_lock_that_is_given_back_within_50_ms_is_waited_for(
    lock: tcc.RedisLock, other: tcc.RedisLock, key: str, client: Client
) -> None:
    held = await hold(lock, key)
    waiting = asyncio.create_task(other.acquire(key, 35.0))
    while not (await client.info("commandstats")).get("cmdstat_pttl"):
        pass  # the first answer, busy, has been given
    await held.release()
    assert not isinstance(await waiting, Busy)


async def test_the_key_is_the_contract_s_and_ends_with_its_time_to_live(
    lock: tcc.RedisLock, key: str, client: Client
) -> None:
    await hold(lock, "{default/g-1}:debit", 35.0)
    assert 34_000 < await client.pttl("tcc:lock:{default/g-1}:debit") <= 35_000
    first = await client.get("tcc:lock:{default/g-1}:debit")
    await hold(lock, key)
    assert first != await client.get(f"tcc:lock:{key}")


async def test_a_late_release_leaves_the_next_holder_s_lock_alone(
    lock: tcc.RedisLock, other: tcc.RedisLock, key: str, client: Client
) -> None:
    late = await hold(lock, key)
    await client.delete(f"tcc:lock:{key}")  # as if it had run out
    await hold(other, key)
    await late.release()
    await lock.close()
    assert await client.exists(f"tcc:lock:{key}")


async def test_a_flush_while_a_lock_is_held_harms_nobody(lock: tcc.RedisLock, key: str, client: Client) -> None:
    held = await hold(lock, key)
    await client.flushall()
    await client.script_flush()
    await held.release()
    await (await hold(lock, key)).release()
    assert lock.bypasses == 0


async def test_acquires_and_releases_under_load_share_their_round_trips(
    lock: tcc.RedisLock, key: str, client: Client
) -> None:
    await (await hold(lock, key)).release()  # connected, and the scripts are there
    before = (await client.info("stats"))["total_reads_processed"]

    async def one(number: int) -> None:
        await (await hold(lock, f"{key}{number}")).release()

    await asyncio.gather(*(one(number) for number in range(200)))
    await lock.close()
    assert (await client.info("stats"))["total_reads_processed"] - before < 20
    assert await client.keys(f"tcc:lock:{key}*") == []


async def test_a_cancelled_acquire_leaves_no_key_behind(
    lock: tcc.RedisLock, other: tcc.RedisLock, key: str, client: Client
) -> None:
    await (await hold(lock, key)).release()
    waiting = asyncio.create_task(lock.acquire(key, 35.0))
    while not await client.exists(f"tcc:lock:{key}"):
        pass
    waiting.cancel()  # before or after its answer: either way the key must go
    await asyncio.gather(waiting, return_exceptions=True)
    if not waiting.cancelled():
        held = waiting.result()
        assert not isinstance(held, Busy)
        await held.release()
    await gone(client, f"tcc:lock:{key}")


async def test_a_cancelled_release_still_gives_the_key_back(lock: tcc.RedisLock, key: str, client: Client) -> None:
    held = await hold(lock, key)

    async def release() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]  # there is one: this
        await held.release()
        await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(release())
    await gone(client, f"tcc:lock:{key}")


async def test_a_lost_reply_to_an_acquire_lets_work_go_on_and_the_key_is_given_back(
    own_redis: Redis, make: Callable[[str], tcc.RedisLock], key: str
) -> None:
    async with Proxy(own_redis.port) as proxy, Client.from_url(own_redis.url) as client:
        lock = make(f"redis://127.0.0.1:{proxy.port}/0")
        await (await hold(lock, f"{key}1")).release()
        await gone(client, f"tcc:lock:{key}1")
        proxy.lose_reply_to(b"EVALSHA")
        held = await hold(lock, key)
        assert (proxy.lost, lock.bypasses) == (1, 1)
        assert await client.exists(f"tcc:lock:{key}")  # taken, though nobody was told
        await held.release()
        await gone(client, f"tcc:lock:{key}")


async def test_a_key_without_an_end_is_taken_over(lock: tcc.RedisLock, key: str, client: Client) -> None:
    await client.set(f"tcc:lock:{key}", "somebody's hand")
    await hold(lock, key)
    assert await client.pttl(f"tcc:lock:{key}") > 0


async def test_a_redis_that_evicts_is_warned_of_once(
    own_redis: Redis, make: Callable[[str], tcc.RedisLock], key: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client.from_url(own_redis.url) as client:
        await client.config_set("maxmemory-policy", "allkeys-lru")
    lock = make(own_redis.url)
    with caplog.at_level(logging.WARNING, "tcc.lock"):
        await (await hold(lock, key)).release()
        await (await hold(lock, key)).release()
        await lock.close()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the lock's Redis evicts keys when its memory is full (maxmemory-policy allkeys-lru), locks that are held too"
    ]


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost:port/0"])
def test_a_url_that_cannot_be_used_says_how_to_write_it(url: str) -> None:
    with pytest.raises(tcc.UsageError, match="redis://localhost:6379/0"):
        tcc.RedisLock(url)


async def test_many_locks_are_taken_by_one_word_each_with_its_own_answer(
    lock: tcc.RedisLock, other: tcc.RedisLock, key: str, client: Client
) -> None:
    await hold(other, f"{key}1", 35.0)
    before = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
    answers = await lock.acquire_all([f"{key}{number}" for number in range(3)], 20.0)
    assert (await client.info("commandstats"))["cmdstat_evalsha"]["calls"] - before == 1
    assert [isinstance(answer, Busy) for answer in answers] == [False, True, False]
    busy = answers[1]
    assert isinstance(busy, Busy)
    assert 30.0 < busy.remaining <= 35.0
    assert 19_000 < await client.pttl(f"tcc:lock:{key}2") <= 20_000
    lock.release_all([answer for answer in answers if not isinstance(answer, Busy)])
    await gone(client, f"tcc:lock:{key}0")
    await gone(client, f"tcc:lock:{key}2")
    assert await client.exists(f"tcc:lock:{key}1")


async def test_the_same_lock_twice_at_once_is_busy_the_second_time(lock: tcc.RedisLock, key: str) -> None:
    answers = await lock.acquire_all([key, key], 35.0)
    assert [isinstance(answer, Busy) for answer in answers] == [False, True]


async def test_many_locks_whose_taking_is_cancelled_leave_no_key_behind(
    lock: tcc.RedisLock, key: str, client: Client
) -> None:
    await (await hold(lock, key)).release()
    waiting = asyncio.create_task(lock.acquire_all([f"{key}{number}" for number in range(3)], 35.0))
    while not await client.exists(f"tcc:lock:{key}2"):
        pass
    waiting.cancel()  # before or after its answer, as above
    await asyncio.gather(waiting, return_exceptions=True)
    if not waiting.cancelled():
        lock.release_all([held for held in waiting.result() if not isinstance(held, Busy)])
    for number in range(3):
        await gone(client, f"tcc:lock:{key}{number}")


async def test_many_locks_without_a_redis_let_work_go_on_and_each_counts() -> None:
    lock = tcc.RedisLock("redis://127.0.0.1:1/0")
    for _ in range(2):  # not answered; and then not asked
        answers = await lock.acquire_all(["a", "b", "c"], 35.0)
        assert not any(isinstance(answer, Busy) for answer in answers)
        lock.release_all([answer for answer in answers if not isinstance(answer, Busy)])
    assert lock.bypasses == 6
    await lock.close()
