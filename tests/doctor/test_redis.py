"""The doctor on the Redis of the locks, a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis as Client

from tcc_server.doctor.finding import Level
from tcc_server.doctor.redis import check_redis
from tests.doctor.looks import levels, only, said
from tests.servers.process import free_port
from tests.servers.redis import Redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """One of our own, whose settings may be spoilt."""
    made = Redis(tmp_path_factory.mktemp("doctor-redis"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
async def admin(server: Redis) -> AsyncIterator[Client]:
    async with Client.from_url(server.url, decode_responses=True) as client:
        yield client
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "0")
        await client.config_set("appendonly", "no")
        await client.replicaof("NO", "ONE")


async def test_a_redis_that_evicts_nothing_is_well_and_nothing_is_written(server: Redis, admin: Client) -> None:
    findings = await check_redis(server.url)
    assert levels(findings) == {Level.OK}
    assert "takes locks" in said(findings)
    assert "it forgets held locks when it is restarted" in said(findings)
    assert await admin.dbsize() == 0
    assert (await admin.info("stats"))["total_writes_processed"] > 0
    assert (await admin.info("persistence"))["rdb_changes_since_last_save"] == 0


async def test_one_that_evicts_is_a_warning(server: Redis, admin: Client) -> None:
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    finding = only(await check_redis(server.url), Level.WARNING)
    assert "maxmemory-policy allkeys-lru" in finding.found
    assert "noeviction" in finding.mend


async def test_persistence_is_told(server: Redis, admin: Client) -> None:
    await admin.config_set("appendonly", "yes")
    assert "keeps locks over a restart" in said(await check_redis(server.url))


async def test_one_that_refuses_to_write_is_a_problem(server: Redis, admin: Client) -> None:
    await admin.config_set("maxmemory", "1")
    assert "refuses to write" in only(await check_redis(server.url), Level.PROBLEM).found


async def test_a_replica_is_a_problem(server: Redis, admin: Client) -> None:
    await admin.replicaof("127.0.0.1", str(free_port()))
    assert "which only reads" in only(await check_redis(server.url), Level.PROBLEM).found


async def test_a_wrong_password_is_a_problem_that_does_not_show_it(server: Redis) -> None:
    url = f"redis://somebody:hunter2@127.0.0.1:{server.port}/0"
    finding = only(await check_redis(url), Level.PROBLEM)
    assert "does not let us in" in finding.found
    assert "hunter2" not in finding.found + finding.mend


async def test_missing_permissions_are_a_problem_that_names_them(server: Redis, admin: Client) -> None:
    await acl(admin, "SETUSER", "weak", "on", ">pw", "~*", "+ping", "+info", "+eval", "+get")
    try:
        finding = only(await check_redis(f"redis://weak:pw@127.0.0.1:{server.port}/0"), Level.PROBLEM)
    finally:
        await acl(admin, "DELUSER", "weak")
    assert "refuses this user what locks need" in finding.found
    assert "+pexpire" in finding.mend


async def test_the_permissions_that_it_proposes_are_enough(server: Redis, admin: Client) -> None:
    await acl(admin, "SETUSER", "weak", "on", ">pw", "+ping", "+info")
    url = f"redis://weak:pw@127.0.0.1:{server.port}/0"
    mend = only(await check_redis(url), Level.PROBLEM).mend
    try:
        await acl(admin, "SETUSER", "weak", *mend.partition("… ")[2].split())
        assert levels(await check_redis(url)) == {Level.OK}
    finally:
        await acl(admin, "DELUSER", "weak")


async def test_info_that_is_refused_is_a_warning(server: Redis, admin: Client) -> None:
    await acl(admin, "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-info")
    try:
        finding = only(await check_redis(f"redis://weak:pw@127.0.0.1:{server.port}/0"), Level.WARNING)
    finally:
        await acl(admin, "DELUSER", "weak")
    assert "eviction and persistence are not known" in finding.found


async def test_one_that_is_away_is_a_problem() -> None:
    assert "does not answer" in only(await check_redis(f"redis://127.0.0.1:{free_port()}/0"), Level.PROBLEM).found


async def test_a_url_that_is_none_is_a_problem() -> None:
    assert "the URL cannot be used" in only(await check_redis("localhost:6379"), Level.PROBLEM).found


async def test_one_that_cannot_write_to_disk_is_a_warning(server: Redis, admin: Client) -> None:
    snapshot = Path(str((await admin.config_get("dir"))["dir"])) / "dump.rdb"
    snapshot.unlink(missing_ok=True)
    (snapshot / "in-the-way").mkdir(parents=True)
    try:
        await admin.bgsave()
        while (await admin.info("persistence"))["rdb_bgsave_in_progress"]:
            pass
        assert "write to disk failed" in only(await check_redis(server.url), Level.WARNING).found
    finally:
        (snapshot / "in-the-way").rmdir()
        snapshot.rmdir()
        await admin.save()


async def acl(client: Client, *words: str) -> None:
    await client.execute_command("ACL", *words)  # type: ignore[no-untyped-call]  # redis-py leaves it without types
