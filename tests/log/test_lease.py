"""Who lives and who is dead: leases, their end, and what others may take over then."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tcc_server.core.model import Key
from tcc_server.log.postgres import PostgresLog
from tcc_server.log.seam import LogConflict, LogUnavailable, LogUnknown, Row
from tests.log.rows import finished, new_row, next_row
from tests.servers.postgres import Postgres
from tests.servers.running import RunningPostgres

ROOT = Path(__file__).parents[2]

Replica = Callable[..., Awaitable[PostgresLog]]


@pytest.fixture
def url(postgres_server: Postgres | RunningPostgres) -> str:
    return postgres_server.database()


@pytest.fixture
async def replica(url: str) -> AsyncIterator[Replica]:
    """Starts replicas on one database, and closes them."""
    started: list[PostgresLog] = []

    async def start(name: str, *, lease_ttl: float = 15.0, at: str = url) -> PostgresLog:
        log = PostgresLog(at, replica=name, lease_ttl=lease_ttl, auto_migrate=True)
        started.append(log)
        await log.open()
        return log

    yield start
    for log in started:
        await log.close()


async def adopt_some(log: PostgresLog) -> list[Row]:
    """What there is to adopt, as soon as there is something."""
    async with asyncio.timeout(20):
        while not (rows := await log.adopt(100)):
            pass
        return list(rows)


async def test_rows_of_a_living_replica_are_left_to_it_and_told_apart(replica: Replica) -> None:
    first, second = await replica("first"), await replica("second")
    row, done = new_row(), new_row("done")
    await first.append(row)
    await first.append(done)
    await first.append(finished(done))

    assert await second.adopt(10) == []
    assert (await second.load([row.key]))[row.key].elsewhere
    assert not (await first.load([row.key]))[row.key].elsewhere
    await first.append(next_row(row))


async def test_what_a_closed_replica_leaves_is_adopted_at_once(replica: Replica) -> None:
    first, second = await replica("first"), await replica("second")
    row = new_row()
    await first.append(row)
    await first.close()
    assert not (await second.load([row.key]))[row.key].elsewhere
    (adopted,) = await second.adopt(10)
    assert (adopted.owner, adopted.version, adopted.elsewhere) == ("second", 2, False)


async def test_a_lease_outlives_its_time_by_being_renewed(replica: Replica) -> None:
    first, second = await replica("first", lease_ttl=1.2), await replica("second")
    row = new_row()
    begun = time.monotonic()
    while time.monotonic() - begun < 2.4:
        await first.append(row)
        assert await second.adopt(10) == []
        row = next_row(row)


async def test_a_replica_that_was_paused_past_its_lease_does_not_come_back_as_who_it_was(replica: Replica) -> None:
    first, second = await replica("first", lease_ttl=0.5), await replica("second")
    row = new_row()
    await first.append(row)
    lapsed = asyncio.create_task(first.lapsed())

    with capture_logs() as said:
        time.sleep(0.7)  # noqa: ASYNC251  the pause: nothing in this process runs
        with pytest.raises(LogUnknown, match="lease has lapsed"):  # before anything else had a chance to run
            await first.append(next_row(row))
        await lapsed
    assert "lease_lapsed" in [entry["event"] for entry in said]

    (adopted,) = await second.adopt(10)
    with pytest.raises(LogUnknown, match="lease has lapsed"):
        await first.append(next_row(row))
    await second.append(next_row(adopted))


async def test_a_late_write_of_a_dead_owner_loses_even_where_its_clock_lies(replica: Replica) -> None:
    first, second = await replica("first", lease_ttl=0.5), await replica("second")
    row = new_row()
    await first.append(row)
    lease = first._lease
    assert lease._timer is not None
    assert lease._keeping is not None
    lease._timer.cancel()  # a timer that never rings
    lease._keeping.cancel()
    lease._alive_until = float("inf")  # on a clock that stands still
    await adopt_some(second)
    with pytest.raises(LogConflict):
        await first.append(next_row(row))


async def test_a_replica_that_was_killed_is_adopted_when_its_lease_is_over(replica: Replica, url: str) -> None:
    log = await replica("heir")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.log.acknowledge", url, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged = [await process.stdout.readline() for _ in range(101)]
    assert await log.adopt(100) == []
    process.send_signal(signal.SIGKILL)
    acknowledged += [line for line in (await process.stdout.read()).splitlines(keepends=True) if line[-1:] == b"\n"]
    await process.wait()

    adopted = await adopt_some(log)
    versions: dict[str, int] = {}
    for line in acknowledged:
        gid, version = line.decode().split()
        versions[gid] = int(version)
    stored = await log.load([Key("default", gid) for gid in versions])
    assert len(versions) >= 50
    assert all(stored[Key("default", gid)].version >= version for gid, version in versions.items())
    unfinished = {key.gid for key, row in stored.items() if not row.state.is_final}
    assert "left-open" in unfinished
    assert unfinished <= {row.key.gid for row in adopted}


async def test_a_database_that_is_away_for_longer_than_the_lease_ends_it(
    replica: Replica, own_postgres: Postgres
) -> None:
    log = await replica("first", lease_ttl=0.6, at=own_postgres.database())
    row = new_row()
    await log.append(row)
    own_postgres.kill()
    async with asyncio.timeout(10):
        await log.lapsed()
    own_postgres.start()
    with pytest.raises(LogUnknown, match="lease has lapsed"):
        await log.append(next_row(row))
    assert (await log.load([row.key]))[row.key].version == 1


async def test_replicas_that_adopt_at_the_same_time_share_the_rows_and_take_none_twice(replica: Replica) -> None:
    first = await replica("first")
    await asyncio.gather(*(first.append(new_row(f"t-{number}")) for number in range(300)))
    heirs = [await replica(f"heir-{number}") for number in range(3)]
    await first.close()

    async def adopt_all(log: PostgresLog) -> list[Row]:
        rows: list[Row] = []
        for _ in range(60):
            rows += await log.adopt(10)
        return rows

    taken = await asyncio.gather(*(adopt_all(heir) for heir in heirs))
    gids = [row.key.gid for rows in taken for row in rows]
    assert sorted(gids) == sorted(f"t-{number}" for number in range(300))
    assert all(row.version == 2 for rows in taken for row in rows)


async def test_an_id_is_not_used_twice(replica: Replica) -> None:
    await replica("first")
    with pytest.raises(LogUnavailable, match="duplicate key"):
        await replica("first")
