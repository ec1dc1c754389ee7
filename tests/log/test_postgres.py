"""What is particular to the log on PostgreSQL: shared commits, lost answers, deadlocks, restarts, settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from structlog.testing import capture_logs

from tcc_server.core.model import Key
from tcc_server.log import rules
from tcc_server.log.migrate import migrate_postgres
from tcc_server.log.postgres import PostgresLog
from tcc_server.log.seam import Filter, LogRejected, LogUnavailable, LogUnknown
from tests.log.rows import finished, new_row, next_row
from tests.servers.postgres import Postgres, through
from tests.servers.proxy import Proxy
from tests.servers.running import RunningPostgres


@pytest.fixture
def url(postgres_server: Postgres | RunningPostgres) -> str:
    return postgres_server.database()


@pytest.fixture
async def log(url: str) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(url, replica="first", auto_migrate=True)
    await log.open()
    yield log
    await log.close()


@pytest.fixture
async def other(log: PostgresLog, url: str) -> AsyncIterator[PostgresLog]:
    """Another replica on the same database."""
    other = PostgresLog(url, replica="second")
    await other.open()
    yield other
    await other.close()


@pytest.fixture
async def by_hand(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection of somebody else, outside of transactions until it begins one."""
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def test_concurrent_appends_share_transactions(log: PostgresLog, by_hand: AsyncConnection) -> None:
    rows = [new_row(f"t-{number}") for number in range(500)]
    await asyncio.gather(*(log.append(row) for row in rows))
    first = await writing_transactions(by_hand)
    assert 1 <= len(first) <= 3
    mixed = [*(finished(row) for row in rows[:200]), *(new_row(f"u-{number}") for number in range(200))]
    await asyncio.gather(*(log.append(row) for row in mixed))
    assert 1 <= len(await writing_transactions(by_hand) - first) <= 3


async def writing_transactions(by_hand: AsyncConnection) -> set[str]:
    """The database's ids of the transactions that wrote the rows that are there."""
    found = await by_hand.execute(text("SELECT DISTINCT xmin::text FROM tcc_transaction"))
    await by_hand.rollback()
    return {row.xmin for row in found}


async def test_rows_that_the_database_refuses_fail_alone_in_their_group(
    log: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_PAYLOAD", 1 << 30)
    taken = new_row("taken")
    await log.append(taken)
    verdicts = await asyncio.gather(
        log.append(new_row("good")),
        log.append(new_row("too-big", body=b"x" * (8 * 1024 * 1024 + 1))),
        log.append(new_row("no-integer", min_reader=2**70)),
        log.append(new_row("no-text", name="a\x00b")),
        log.append(next_row(taken)),
        return_exceptions=True,
    )
    assert [type(verdict) for verdict in verdicts] == [type(None), LogRejected, LogRejected, LogRejected, type(None)]
    assert "0x00" in str(verdicts[3])
    stored = await log.load([Key("default", gid) for gid in ("good", "too-big", "no-integer", "no-text", "taken")])
    assert {key.gid: row.version for key, row in stored.items()} == {"good": 1, "taken": 2}


async def test_an_append_whose_answer_is_lost_is_unknown_and_the_same_append_again_settles_it(
    log: PostgresLog, url: str
) -> None:
    async with Proxy(make_url(url).port or 0) as proxy:
        far = PostgresLog(through(proxy, url), replica="far")
        await far.open()
        row = new_row(progress=b"the one that is lost")
        proxy.lose_reply_to(b"the one that is lost")
        with pytest.raises(LogUnknown):
            await far.append(row)
        assert proxy.lost == 1
        assert (await log.load([row.key]))[row.key].write_id == row.write_id
        await far.append(row)
        await far.append(next_row(row))
        await far.close()


async def test_an_adoption_whose_answer_is_lost_is_given_by_the_next_one(log: PostgresLog, url: str) -> None:
    rows = [new_row(f"t-{number}") for number in range(3)]
    for row in rows:
        await log.append(row)
    await log.close()
    async with Proxy(make_url(url).port or 0) as proxy:
        far = PostgresLog(through(proxy, url), replica="far-away")
        await far.open()
        proxy.lose_reply_to(b"far-away")
        with pytest.raises(LogUnavailable):
            await far.adopt(10)
        adopted = await far.adopt(10)
        assert (proxy.lost, [row.key.gid for row in adopted]) == (1, ["t-0", "t-1", "t-2"])
        assert {(row.version, row.owner) for row in adopted} == {(2, "far-away")}
        assert await far.adopt(10) == []
        await far.append(next_row(adopted[0]))
        await far.close()


async def test_a_deadlock_is_none_of_the_callers_business(log: PostgresLog, by_hand: AsyncConnection) -> None:
    first, second = new_row("a"), new_row("b")
    await asyncio.gather(log.append(first), log.append(second))
    pid = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await by_hand.execute(text("SET LOCAL deadlock_timeout = '60s'"))  # so that it is the log that has to give in
    await by_hand.execute(text("SELECT 1 FROM tcc_transaction WHERE gid = 'b' FOR UPDATE"))
    writing = asyncio.gather(log.append(next_row(first)), log.append(next_row(second)))
    async with asyncio.timeout(10):
        while not await by_hand.scalar(text(pid)):
            pass  # the group has written a, and waits for b
    await by_hand.execute(text("UPDATE tcc_transaction SET name = 'by hand' WHERE gid = 'a'"))  # now each waits
    await by_hand.commit()
    await writing
    stored = await log.load([first.key, second.key])
    assert {row.version for row in stored.values()} == {2}


async def test_two_replicas_that_meet_on_many_rows_lose_none_of_them_to_a_deadlock(
    log: PostgresLog, other: PostgresLog
) -> None:
    rows = [new_row(f"t-{number}") for number in range(100)]
    await asyncio.gather(*(log.append(row) for row in rows))
    for _ in range(5):
        after = [(next_row(row), next_row(row)) for row in rows]
        mine = asyncio.gather(*(log.append(one) for one, _ in after), return_exceptions=True)
        theirs = asyncio.gather(*(other.append(two) for _, two in reversed(after)), return_exceptions=True)
        verdicts = list(zip(await mine, reversed(await theirs), strict=True))
        assert all(sorted(type(end).__name__ for end in pair) == ["LogConflict", "NoneType"] for pair in verdicts)
        rows = [one if verdict[0] is None else two for (one, two), verdict in zip(after, verdicts, strict=True)]


async def test_a_connection_that_the_server_closed_meanwhile_costs_no_append(
    log: PostgresLog, by_hand: AsyncConnection
) -> None:
    await log.append(new_row("before"))
    writers = "pid <> pg_backend_pid() AND datname = current_database() AND query LIKE '%INSERT INTO tcc_transaction%'"
    ended = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {writers}"  # noqa: S608  our own
    assert await by_hand.scalar(text(ended)) == 1
    await by_hand.rollback()
    async with asyncio.timeout(10):
        while await by_hand.scalar(text(f"SELECT count(*) FROM pg_stat_activity WHERE {writers}")):  # noqa: S608
            await by_hand.rollback()
    await log.load([Key("default", "before")])  # a turn of the loop: the end has been heard by now
    await log.append(new_row("after"))


async def test_more_reads_than_connections_wait_their_turn(log: PostgresLog) -> None:
    await log.append(new_row())
    reads = await asyncio.gather(
        *(log.load([Key("default", "t-1")]) for _ in range(50)), *(log.list(Filter("default"), 10) for _ in range(50))
    )
    assert all(reads)


async def test_a_server_killed_and_started_under_load_keeps_what_was_acknowledged(own_postgres: Postgres) -> None:
    log = PostgresLog(own_postgres.database(), replica="first", auto_migrate=True)
    await log.open()
    unknown, some_done = 0, asyncio.Event()

    async def one(gid: str) -> None:
        nonlocal unknown
        row = new_row(gid)
        for step in (row, next_row(row)):
            while True:
                try:
                    await log.append(step)
                    break
                except LogUnknown:
                    unknown += 1
                    await asyncio.sleep(0.05)
        some_done.set()

    async with asyncio.timeout(60):
        work = [asyncio.create_task(one(f"t-{number}")) for number in range(2000)]
        await some_done.wait()
        own_postgres.kill()
        await asyncio.to_thread(own_postgres.start)
        await asyncio.gather(*work)
    stored = await log.load([Key("default", f"t-{number}") for number in range(2000)])
    assert unknown > 0
    assert [row.version for row in stored.values()] == [2] * 2000
    await log.close()


async def set_for_database(connection: AsyncConnection, setting: str) -> None:
    connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
    name = await connection.scalar(text("SELECT current_database()"))
    await connection.execute(text(f'ALTER DATABASE "{name}" SET {setting}'))


async def test_a_server_that_acknowledges_what_it_can_lose_is_warned_of(url: str, by_hand: AsyncConnection) -> None:
    await set_for_database(by_hand, "synchronous_commit = off")
    log = PostgresLog(url, replica="first", auto_migrate=True)
    with capture_logs() as said:
        await log.open()
    assert [(entry["event"], entry["setting"]) for entry in said] == [("log_not_durable", "synchronous_commit = off")]
    await log.close()


async def test_a_server_that_only_reads_is_refused(url: str, by_hand: AsyncConnection) -> None:
    await migrate_postgres(url)
    await set_for_database(by_hand, "default_transaction_read_only = on")
    log = PostgresLog(url, replica="first")
    with pytest.raises(LogUnavailable, match="only reads: give the URL of the primary"):
        await log.open()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"database": "nowhere"}, "there is no such database: create it"),
        ({"username": "nobody"}, "does not let this user in: check the user"),
        ({"port": 1}, "cannot be reached: check that it runs"),
    ],
)
async def test_a_server_that_cannot_be_used_is_named_with_the_reason_and_without_the_password(
    url: str, change: dict[str, str | int], reason: str
) -> None:
    wrong = make_url(url).set(**{"password": "secret", **change})  # type: ignore[arg-type]  # one of several keywords
    log = PostgresLog(wrong.render_as_string(hide_password=False), replica="first")
    with pytest.raises(LogUnavailable, match=reason) as refused:
        await log.open()
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong", ["postgresql://host", "postgresql+psycopg://host/db", "postgresql://host:port/db", "mysql://h/d"]
)
def test_a_url_that_cannot_be_used_says_how_to_write_it(wrong: str) -> None:
    with pytest.raises(LogUnavailable, match="write it like postgresql://"):
        PostgresLog(wrong, replica="first")
