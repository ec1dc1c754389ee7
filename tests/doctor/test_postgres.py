"""The doctor on a log on PostgreSQL, a real one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from tcc_server.doctor.clock import judge
from tcc_server.doctor.finding import Level
from tcc_server.doctor.postgres import check_postgres
from tcc_server.log.migrate import head_revision, migrate_postgres
from tests.doctor.looks import levels, only, said
from tests.servers.postgres import Postgres
from tests.servers.process import Process, free_port, program
from tests.servers.running import RunningPostgres

RECEIVERS = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/pg_receivewal")]


@pytest.fixture
async def log(postgres_server: Postgres | RunningPostgres) -> str:
    url = postgres_server.database()
    await migrate_postgres(url)
    return url


async def test_a_log_of_this_version_is_well(log: str) -> None:
    findings = await check_postgres(log)
    assert levels(findings) == {Level.OK}
    assert head_revision() in said(findings)
    assert "no replica works on it now" in said(findings)
    assert "agree to within a second" in said(findings)


async def test_replicas_that_live_are_counted(log: str) -> None:
    await sql(
        log,
        "INSERT INTO tcc_replica (id, expires_at, format) VALUES ('a', now() + interval '1 minute', 1), "
        "('b', now() - interval '1 minute', 1)",
    )
    assert "replicas at work on it: 1" in said(await check_postgres(log))


async def test_a_database_that_forgets_is_a_warning(log: str) -> None:
    await sql(log, f'ALTER DATABASE "{make_url(log).database}" SET synchronous_commit = off')
    finding = only(await check_postgres(log), Level.WARNING)
    assert "synchronous_commit = off" in finding.found
    assert "decisions too" in finding.found
    assert "set synchronous_commit = on" in finding.mend


async def test_a_database_that_only_reads_is_a_problem(log: str) -> None:
    await sql(log, f'ALTER DATABASE "{make_url(log).database}" SET default_transaction_read_only = on')
    assert "only reads" in only(await check_postgres(log), Level.PROBLEM).found


async def test_an_empty_database_is_a_problem_that_says_to_migrate_and_stays_empty(
    postgres_server: Postgres | RunningPostgres,
) -> None:
    url = postgres_server.database()
    for _ in range(2):
        assert "run `tcc migrate`" in only(await check_postgres(url), Level.PROBLEM).found


async def test_a_log_of_a_newer_version_is_a_problem_that_says_to_upgrade(log: str) -> None:
    await sql(log, "UPDATE tcc_log_version SET version_num = '9999'")
    assert "upgrade tcc-toolkit" in only(await check_postgres(log), Level.PROBLEM).found


async def test_somebody_elses_database_is_a_problem(postgres_server: Postgres | RunningPostgres) -> None:
    url = postgres_server.database()
    await sql(url, "CREATE TABLE mine (x int)")
    assert "it holds mine" in only(await check_postgres(url), Level.PROBLEM).found


async def test_a_database_that_is_not_there_is_a_problem_that_shows_no_password(log: str) -> None:
    url = make_url(log).set(database="nowhere", password="hunter2").render_as_string(hide_password=False)  # noqa: S106
    finding = only(await check_postgres(url), Level.PROBLEM)
    assert "there is no such database" in finding.found
    assert "hunter2" not in finding.found


async def test_a_server_that_is_away_is_a_problem() -> None:
    finding = only(await check_postgres(f"postgresql://tcc@127.0.0.1:{free_port()}/tcc"), Level.PROBLEM)
    assert "cannot be reached" in finding.found


async def test_standbys_that_no_commit_waits_for_are_a_warning(own_postgres: Postgres, tmp_path: Path) -> None:
    url = own_postgres.database()
    await migrate_postgres(url)
    assert levels(await check_postgres(url)) == {Level.OK}
    address = ("-h", "127.0.0.1", "-p", str(own_postgres.port), "-U", "postgres")
    standby = Process(
        [program("postgresql", *RECEIVERS), "-D", str(tmp_path), "--no-sync", *address], tmp_path / "receiver.log"
    )
    try:
        standby.wait_until(lambda: own_postgres.sql("postgres", "SELECT state FROM pg_stat_replication") != "", 20)
        finding = only(await check_postgres(url), Level.WARNING)
    finally:
        standby.end(signal.SIGTERM)
    assert "standbys that follow asynchronously: 1;" in finding.found
    assert "synchronous_standby_names" in finding.mend


@pytest.mark.parametrize(
    ("database", "level", "which"),
    [
        (100.5, Level.OK, "agree"),
        (98.9, Level.WARNING, "1.1 s ahead of"),
        (102.9, Level.WARNING, "behind"),
        (101.4, Level.OK, "agree"),
    ],
)
def test_a_clock_is_judged_by_what_it_must_have_been(database: float, level: Level, which: str) -> None:
    finding = judge(before=100.0, database=database, after=101.0)
    assert finding.level is level
    assert which in finding.found


async def sql(url: str, statement: str) -> None:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        await connection.execute(text(statement))
    await engine.dispose()
