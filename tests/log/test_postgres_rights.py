"""What the log says of a PostgreSQL that does not let it in, or does not let it do its work, and how it goes on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from tcc_server.log.migrate import migrate_postgres
from tcc_server.log.postgres import PostgresLog
from tcc_server.log.seam import LogUnavailable, LogUnknown
from tests.log.rows import new_row
from tests.servers.postgres import Postgres
from tests.servers.running import RunningPostgres


async def execute(url: str, *statements: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


@asynccontextmanager
async def weak_user(url: str) -> AsyncIterator[tuple[URL, str]]:
    """A user who may look at the log's tables and no more; the URL for it, and its name."""
    name = f"weak_{secrets.token_hex(4)}"
    await execute(
        url, f"CREATE ROLE {name} LOGIN PASSWORD 'right'", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"
    )
    yield make_url(url).set(username=name, password="right"), name  # noqa: S106  of a test's own server
    await execute(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def text_of(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@pytest.fixture
async def url(postgres_server: Postgres | RunningPostgres) -> str:
    url = postgres_server.database()
    await migrate_postgres(url)
    return url


async def test_a_user_without_rights_is_told_what_to_grant_and_that_is_enough(url: str) -> None:
    async with weak_user(url) as (weak, name):
        with pytest.raises(LogUnavailable, match="may not do that: grant it the rights"):
            await PostgresLog(text_of(weak), replica="first").open()
        await execute(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}")
        log = PostgresLog(text_of(weak), replica="first")
        await log.open()
        await log.append(new_row())
        await log.close()


async def test_rights_that_are_taken_away_lose_nothing_and_work_goes_on_once_they_are_back(url: str) -> None:
    async with weak_user(url) as (weak, name):
        everything = f"SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}"
        await execute(url, f"GRANT {everything}")
        log = PostgresLog(text_of(weak), replica="first")
        await log.open()
        await execute(url, f"REVOKE INSERT ON tcc_transaction FROM {name}")
        row = new_row()
        with pytest.raises(LogUnknown, match="may not do that: grant it the rights"):
            await log.append(row)
        assert await log.load([row.key]) == {}
        await execute(url, f"GRANT {everything}")
        await log.append(row)  # the same again, as the engine does
        assert (await log.load([row.key]))[row.key].write_id == row.write_id
        await log.close()


async def test_a_wrong_password_is_said_and_not_shown(own_postgres: Postgres) -> None:
    url = own_postgres.database()
    await migrate_postgres(url)
    async with weak_user(url) as (weak, _):
        await asyncio.to_thread(own_postgres.let_in, "scram-sha-256")
        wrong = weak.set(password="certainly wrong")  # noqa: S106
        with pytest.raises(LogUnavailable, match="the password is wrong: check the user and the password") as refused:
            await PostgresLog(text_of(wrong), replica="first").open()
        assert "certainly" not in str(refused.value)
        await asyncio.to_thread(own_postgres.let_in, "trust")
