"""What adoption and `list` read, counted by the databases themselves: it does not grow with what they do not give.

No clocks: SQLite tells the steps of its virtual machine, PostgreSQL the rows and index entries that it returned.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from tcc_server.core.model import State
from tcc_server.log.postgres import PostgresLog
from tcc_server.log.seam import READER, Filter, Log
from tcc_server.log.sqlite import SqliteLog
from tests.log.rows import new_row
from tests.servers.postgres import Postgres
from tests.servers.running import RunningPostgres

OPEN = (State.TRYING, State.CONFIRMING, State.CANCELLING)

QUESTIONS = pytest.mark.parametrize(
    "wanted",
    [
        Filter("default", states=OPEN),
        Filter("default", states=OPEN[:1]),
        Filter("default", states=OPEN, attention=False),
        Filter("default", attention=True),
        Filter("default", attention=True, states=OPEN),
        Filter("default", attention=True, states=[State.CONFIRMED]),
        Filter("default", states=tuple(State)),
    ],
    ids=["open", "trying", "open, quiet", "attention", "open, attention", "confirmed, attention", "all"],
)


async def fill(log: Log, finished: int) -> None:
    """Nine open rows, a third of them with attention, among finished ones."""
    rows = [
        new_row(f"open-{number}", state=OPEN[number % 3], begun_at=number * 100.0, attention=number < 3)
        for number in range(9)
    ]
    rows += [
        new_row(f"done-{number}", state=State.CONFIRMED, wake_at=None, begun_at=float(number), finished_at=1.0)
        for number in range(finished)
    ]
    await asyncio.gather(*(log.append(row) for row in rows))


async def leave_open(log: Log, count: int) -> None:
    """Rows of a replica that is gone then, and as many that this version cannot read."""
    await log.open()
    rows = [
        new_row(f"{gid}-{number}", wake_at=float(number % 50), min_reader=min_reader)
        for gid, min_reader in {"old": READER, "new": READER + 1}.items()
        for number in range(count)
    ]
    await asyncio.gather(*(log.append(row) for row in rows))
    await log.close()


async def adopt_all(log: Log, batch: int) -> int:
    count = 0
    while rows := await log.adopt(batch):
        count += len(rows)
    return count


# SQLite


async def steps_of(log: SqliteLog, work: Awaitable[object]) -> int:
    """How many steps SQLite's machine takes for it, on both of the log's connections, in tens."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    def watch(connect: Callable[[], Connection]) -> None:
        driver = connect().connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_progress_handler(count, 10)

    for lane in (log._writer, log._reader):
        await lane.run(watch, lane.connect)
    await work
    return steps


@QUESTIONS
@pytest.mark.parametrize("gids", [(), ("open-1", "done-1", "unknown")], ids=["all gids", "some gids"])
async def test_a_list_takes_sqlite_the_same_steps_beside_many_finished_rows(
    tmp_path: Path, wanted: Filter, gids: Sequence[str]
) -> None:
    steps = []
    for finished in (200, 4000):
        log = SqliteLog(tmp_path / f"{finished}.db", replica="first")
        await log.open()
        await fill(log, finished)
        steps.append(await steps_of(log, log.list(replace(wanted, gids=gids), 10)))
        await log.close()
    few, many = steps
    assert many <= few * 1.2


async def test_adoption_takes_sqlite_the_same_steps_for_each_of_many_rows(tmp_path: Path) -> None:
    steps = []
    for count in (100, 2000):
        path = tmp_path / f"{count}.db"
        await leave_open(SqliteLog(path, replica="m"), count)
        log = SqliteLog(path, replica="second")
        await log.open()
        steps.append(await steps_of(log, adopt_all(log, 10)) / count)
        await log.close()
    of_few, of_many = steps
    assert of_many <= of_few * 1.2


# PostgreSQL


@pytest.fixture
def url(postgres_server: Postgres | RunningPostgres) -> str:
    return postgres_server.database()


@pytest.fixture
async def by_hand(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection of somebody else, outside of transactions."""
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def entries_read(by_hand: AsyncConnection) -> int:
    """Index entries and rows of the transactions' table that were ever read. All logs on it are closed."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with asyncio.timeout(20):
        while await by_hand.scalar(text(f"{others} AND backend_type = 'client backend'")):
            pass  # a connection's counts are there once it has ended
    entries = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'tcc_transaction'"
    rows = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'tcc_transaction'"
    return int(await by_hand.scalar(text(f"SELECT ({entries}) + ({rows})")))


@QUESTIONS
async def test_a_list_reads_on_postgresql_no_more_rows_than_a_page_of_each_state(
    url: str, by_hand: AsyncConnection, wanted: Filter
) -> None:
    log = PostgresLog(url, replica="first", auto_migrate=True)
    await log.open()
    await fill(log, 2000)
    await log.close()
    before = await entries_read(by_hand)
    log = PostgresLog(url, replica="second")
    await log.open()
    await log.list(wanted, 10)
    await log.close()
    assert await entries_read(by_hand) - before <= 11 * len(State)


async def test_adoption_reads_each_row_on_postgresql_a_few_times_also_while_a_backup_keeps_the_old_ones(
    url: str, by_hand: AsyncConnection
) -> None:
    count, batch = 8000, 100
    await leave_open(PostgresLog(url, replica="m", auto_migrate=True), count)
    before = await entries_read(by_hand)
    log = PostgresLog(url, replica="second")
    await log.open()
    await by_hand.execute(text("BEGIN ISOLATION LEVEL REPEATABLE READ"))
    await by_hand.execute(text("SELECT count(*) FROM tcc_replica"))
    assert await adopt_all(log, batch) == count
    await by_hand.execute(text("COMMIT"))
    await log.close()
    # Found; locked and changed by its key; and passed once more, dead, by the look that finds no owner left.
    assert await entries_read(by_hand) - before <= 6 * count
