"""The fence on PostgreSQL, where many write at once: deadlocks, waits, lost connections, unknown commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from tcc.fence import Body, FenceBusy, FenceUnavailable, Record, Rule, SqlFence
from tests.fence.visits import CONFIRM, TRY, Business, run
from tests.servers.postgres import Postgres, through
from tests.servers.proxy import Proxy

METADATA = MetaData()
EFFECTS = Table("effects", METADATA, Column("name", String, primary_key=True))
ACCOUNTS = Table("accounts", METADATA, Column("name", String, primary_key=True), Column("amount", Integer))


async def prepare(fence: SqlFence) -> SqlFence:
    await fence.create_tables()
    async with fence.engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        await connection.execute(insert(ACCOUNTS), [{"name": "a", "amount": 0}, {"name": "b", "amount": 0}])
    return fence


@pytest.fixture
async def sql(postgres_url: str) -> AsyncIterator[SqlFence]:
    fence = SqlFence(postgres_url)
    yield await prepare(fence)
    await fence.close()


async def effects(fence: SqlFence) -> int:
    async with fence.engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(EFFECTS)) or 0


def effect(fence: SqlFence, name: str = "effect") -> Body:
    async def body(_: Record | None) -> bytes:
        await fence.session.execute(insert(EFFECTS).values(name=name))
        return b"done"

    return body


async def test_of_two_handlers_that_deadlock_one_is_busy_and_both_end_with_one_effect_each(sql: SqlFence) -> None:
    first_held = [asyncio.Event(), asyncio.Event()]

    def move(first: str, second: str, mine: int) -> Body:
        async def body(_: Record | None) -> bytes:
            for name in (first, second):
                statement = update(ACCOUNTS).where(ACCOUNTS.c.name == name).values(amount=ACCOUNTS.c.amount + 1)
                await sql.session.execute(statement)
                first_held[mine].set()
                await first_held[1 - mine].wait()
            return b""

        return body

    visits = [(replace(TRY, gid="g-1"), move("a", "b", 0)), (replace(TRY, gid="g-2"), move("b", "a", 1))]
    ends = await asyncio.gather(*(sql.visit(visit, body) for visit, body in visits), return_exceptions=True)

    assert sorted(type(end).__name__ for end in ends) == ["FenceBusy", "Verdict"]
    assert "deadlock" in str(next(end for end in ends if isinstance(end, FenceBusy)))
    again = [(await sql.visit(visit, body)).rule for visit, body in visits]
    assert sorted(rule.name for rule in again) == ["REPLY", "RUN"]
    async with sql.engine.connect() as connection:
        assert (await connection.scalars(select(ACCOUNTS.c.amount))).all() == [2, 2]


@pytest.mark.parametrize("visit", [TRY, CONFIRM], ids=lambda visit: visit.phase)
async def test_a_serialization_failure_is_busy_and_leaves_nothing(sql: SqlFence, visit: object) -> None:
    async def body(_: Record | None) -> bytes:
        await sql.session.execute(insert(EFFECTS).values(name="effect"))
        await sql.session.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"))
        return b""

    if visit is CONFIRM:
        await run(sql, TRY)
    with pytest.raises(FenceBusy):
        await sql.visit(CONFIRM if visit is CONFIRM else TRY, body)
    assert await effects(sql) == 0
    assert (await sql.visit(CONFIRM if visit is CONFIRM else TRY, effect(sql))).rule is Rule.RUN


@pytest.mark.parametrize("is_new", [True, False], ids=["a new row", "a row that is there"])
async def test_the_wait_for_a_row_is_bounded_and_ends_in_busy(sql: SqlFence, postgres_url: str, is_new: bool) -> None:
    impatient = SqlFence(postgres_url, row_wait=0.05)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_: Record | None) -> bytes:
        entered.set()
        await leave.wait()
        return b""

    if not is_new:
        await run(sql, TRY)
    visit = TRY if is_new else CONFIRM
    visiting = asyncio.create_task(sql.visit(visit, slow))
    await entered.wait()
    with pytest.raises(FenceBusy, match="lock timeout") as busy:
        await impatient.visit(visit, Business())
    assert busy.value.retry_after > 0
    leave.set()
    assert (await visiting).rule is Rule.RUN
    await impatient.close()


async def test_visits_of_other_branches_do_not_wait_for_each_other(sql: SqlFence) -> None:
    together = asyncio.Barrier(10)

    async def body(_: Record | None) -> bytes:
        await together.wait()
        return b""

    async with asyncio.timeout(30):
        await asyncio.gather(*(sql.visit(replace(TRY, gid=f"g-{number}"), body) for number in range(10)))


async def test_a_pool_without_a_free_connection_is_busy(sql: SqlFence, postgres_url: str) -> None:
    engine = create_async_engine(postgres_url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    fence = SqlFence(engine)
    async with engine.connect():
        with pytest.raises(FenceBusy, match="connections are in use"):
            await fence.visit(TRY, Business())
    assert (await run(fence, TRY)).rule is Rule.RUN
    await engine.dispose()


async def test_a_server_that_takes_no_more_connections_is_busy(sql: SqlFence, postgres_url: str) -> None:
    async with sql.engine.begin() as connection:
        await connection.execute(text("CREATE ROLE narrow LOGIN CONNECTION LIMIT 0"))
    try:
        narrow = SqlFence(make_url(postgres_url).set(username="narrow").render_as_string())
        with pytest.raises(FenceBusy, match="takes no more connections"):
            await narrow.visit(TRY, Business())
        await narrow.close()
    finally:
        async with sql.engine.begin() as connection:
            await connection.execute(text("DROP ROLE narrow"))


@pytest.mark.parametrize("part", ["username", "database"])
async def test_what_cannot_be_connected_to_is_unavailable_and_says_why(
    sql: SqlFence, postgres_url: str, part: str
) -> None:
    url = make_url(postgres_url)
    wrong = url.set(username="nobody") if part == "username" else url.set(database="nobody")
    fence = SqlFence(wrong.render_as_string())
    with pytest.raises(FenceUnavailable, match=r'cannot be reached: .*"nobody" does not exist'):
        await fence.visit(TRY, Business())
    await fence.close()


async def test_a_user_without_rights_is_unavailable_and_says_so_and_a_grant_is_enough(
    sql: SqlFence, postgres_url: str
) -> None:
    async with sql.engine.begin() as connection:
        await connection.execute(text("CREATE ROLE weak LOGIN"))
    fence = SqlFence(make_url(postgres_url).set(username="weak").render_as_string())
    try:
        with pytest.raises(FenceUnavailable, match="permission denied for table tcc_fence"):
            await fence.visit(TRY, Business())
        async with sql.engine.begin() as connection:
            await connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO weak"))
        assert (await run(fence, TRY)).rule is Rule.RUN
    finally:
        await fence.close()
        async with sql.engine.begin() as connection:
            await connection.execute(text("DROP OWNED BY weak"))
            await connection.execute(text("DROP ROLE weak"))


async def test_a_commit_whose_reply_is_lost_is_not_told_as_done_and_a_repeat_finds_the_effect(
    sql: SqlFence, postgres_url: str
) -> None:
    async with Proxy(make_url(postgres_url).port or 0) as proxy:
        fence = SqlFence(through(proxy, postgres_url))
        proxy.lose_reply_to(b"COMMIT;")
        with pytest.raises(FenceUnavailable, match="unknown"):
            await fence.visit(TRY, effect(fence))
        assert proxy.lost == 1
        assert await effects(sql) == 1
        assert (await fence.visit(TRY, effect(fence))).rule is Rule.REPLY
        await fence.close()


async def test_a_connection_that_breaks_under_the_handler_leaves_nothing(sql: SqlFence, postgres_url: str) -> None:
    async with Proxy(make_url(postgres_url).port or 0) as proxy:
        fence = SqlFence(through(proxy, postgres_url))

        async def body(_: Record | None) -> bytes:
            await fence.session.execute(insert(EFFECTS).values(name="effect"))
            proxy.cut()
            await fence.session.execute(text("SELECT 1"))
            return b""

        with pytest.raises(FenceUnavailable, match="broke"):
            await fence.visit(TRY, body)
        assert await effects(sql) == 0
        assert (await fence.visit(TRY, effect(fence))).rule is Rule.RUN
        await fence.close()


async def test_a_server_killed_and_started_under_load_leaves_each_branch_with_one_effect(
    own_postgres: Postgres,
) -> None:
    fence = await prepare(SqlFence(own_postgres.database()))
    failures = 0
    some_done = asyncio.Event()

    async def one(name: str) -> None:
        nonlocal failures
        async with asyncio.timeout(60):
            while True:
                try:
                    await fence.visit(replace(TRY, gid=name), effect(fence, name))
                    some_done.set()
                    return
                except (FenceBusy, FenceUnavailable):
                    failures += 1
                    await asyncio.sleep(0.02)

    work = [asyncio.create_task(one(f"g-{number}")) for number in range(600)]
    await some_done.wait()
    own_postgres.kill()
    await asyncio.to_thread(own_postgres.start)
    await asyncio.gather(*work)

    assert failures > 0
    assert await effects(fence) == 600
    await fence.close()
