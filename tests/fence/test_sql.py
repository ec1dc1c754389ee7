"""The fence in a database: effect and row are one, whatever the handler or the database does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import tcc
from tcc.fence import FENCE_TABLE, Body, FenceBusy, FenceUnavailable, Record, Refusal, Rule, SqlFence, Visit, ddl
from tests.fence.visits import CANCEL, CONFIRM, TRY, Business, run

EFFECTS = Table("effects", MetaData(), Column("name", String, primary_key=True), Column("times", Integer, default=1))
REFUSAL = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "no")


@pytest.fixture(autouse=True)
async def effects(sql: SqlFence) -> None:
    async with sql.engine.begin() as connection:
        await connection.run_sync(EFFECTS.metadata.create_all)
    return


async def count(fence: SqlFence) -> int:
    async with fence.engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(EFFECTS)) or 0


def effect(fence: SqlFence, name: str = "effect") -> Body:
    async def body(_: Record | None) -> bytes:
        await fence.session.execute(insert(EFFECTS).values(name=name))
        return b"done"

    return body


async def test_effect_and_row_are_committed_together(sql: SqlFence, second: SqlFence) -> None:
    await sql.visit(TRY, effect(sql))

    assert await count(second) == 1
    assert (await run(second, TRY)).rule is Rule.REPLY


@pytest.mark.parametrize("ending", ["refuses", "raises"])
@pytest.mark.parametrize("own", ["commit", "nested commit", "nothing"])
async def test_the_handlers_own_commit_does_not_part_effect_and_row(sql: SqlFence, own: str, ending: str) -> None:
    async def body(_: Record | None) -> bytes | Refusal:
        if own == "nested commit":
            async with sql.session.begin_nested():
                await sql.session.execute(insert(EFFECTS).values(name="effect"))
        else:
            await sql.session.execute(insert(EFFECTS).values(name="effect"))
        if own != "nothing":
            await sql.session.commit()
        if ending == "refuses":
            return REFUSAL
        raise ValueError("bug")

    if ending == "refuses":
        await sql.visit(TRY, body)
    else:
        with pytest.raises(ValueError, match="bug"):
            await sql.visit(TRY, body)

    assert await count(sql) == 0
    assert (await run(sql, TRY)).rule is (Rule.REFUSE if ending == "refuses" else Rule.RUN)


@pytest.mark.parametrize("visit", [CONFIRM, CANCEL], ids=lambda visit: visit.phase)
async def test_a_confirm_or_cancel_that_commits_and_then_fails_leaves_nothing(sql: SqlFence, visit: Visit) -> None:
    async def body(_: Record | None) -> bytes:
        await sql.session.execute(insert(EFFECTS).values(name="effect"))
        await sql.session.commit()
        raise ValueError("bug")

    await run(sql, TRY)
    with pytest.raises(ValueError, match="bug"):
        await sql.visit(visit, body)

    assert await count(sql) == 0
    assert (await run(sql, visit)).rule is Rule.RUN


async def test_the_handlers_own_rollback_does_not_let_another_delivery_in(sql: SqlFence, url: str) -> None:
    impatient = SqlFence(url, row_wait=0.05)

    async def body(_: Record | None) -> Refusal:
        await sql.session.execute(insert(EFFECTS).values(name="undone"))
        await sql.session.rollback()
        with pytest.raises(FenceBusy):
            await impatient.visit(CANCEL, Business())
        return REFUSAL

    assert (await sql.visit(TRY, body)).rule is Rule.RUN
    assert (await run(impatient, CANCEL)).rule is Rule.DONE
    assert await count(sql) == 0
    await impatient.close()


async def test_a_commit_around_the_session_is_refused_and_nothing_stays(sql: SqlFence) -> None:
    async def body(_: Record | None) -> bytes:
        await sql.session.execute(insert(EFFECTS).values(name="effect"))
        await (await sql.session.connection()).commit()
        return b""

    with pytest.raises(tcc.UsageError, match=r"commit through fence\.session"):
        await sql.visit(TRY, body)
    assert await count(sql) == 0
    assert (await run(sql, CONFIRM)).rule is Rule.NO_TRY


async def test_orm_objects_that_wait_for_a_flush_are_written(sql: SqlFence) -> None:
    class Base(DeclarativeBase):
        pass

    class Effect(Base):
        __tablename__ = "effects"
        name: Mapped[str] = mapped_column(primary_key=True)
        times: Mapped[int] = mapped_column(default=1)

    async def body(_: Record | None) -> bytes:
        sql.session.add(Effect(name="effect"))
        return b""

    await sql.visit(TRY, body)
    assert await count(sql) == 1


async def test_a_refusal_writes_nothing_that_the_session_still_holds_back(sql: SqlFence) -> None:
    class Base(DeclarativeBase):
        pass

    class Effect(Base):
        __tablename__ = "effects"
        name: Mapped[str] = mapped_column(primary_key=True)

    async def body(_: Record | None) -> Refusal:
        sql.session.add(Effect(name="before"))  # is there already: a flush would fail
        return REFUSAL

    await sql.visit(replace(TRY, gid="before"), effect(sql, "before"))
    assert (await sql.visit(TRY, body)).rule is Rule.RUN
    assert (await run(sql, TRY)).rule is Rule.REFUSE


async def test_an_effect_that_the_database_refuses_at_the_flush_rolls_back_all(sql: SqlFence) -> None:
    await sql.visit(replace(TRY, gid="before"), effect(sql))
    with pytest.raises(IntegrityError):
        await sql.visit(TRY, effect(sql))
    assert (await run(sql, CONFIRM)).rule is Rule.NO_TRY


async def test_a_commit_that_fails_is_not_told_as_done_and_leaves_nothing(sql: SqlFence) -> None:
    async with sql.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE wishes (name VARCHAR PRIMARY KEY)"))
        await connection.execute(
            text(
                "CREATE TABLE promises (name VARCHAR PRIMARY KEY, "
                "wish VARCHAR REFERENCES wishes DEFERRABLE INITIALLY DEFERRED)"
            )
        )

    async def body(_: Record | None) -> bytes:
        await sql.session.execute(insert(EFFECTS).values(name="effect"))
        await sql.session.execute(
            text("INSERT INTO promises VALUES ('kept', 'nobody has it')")
        )  # checked at the commit
        return b""

    with pytest.raises(FenceUnavailable, match="unknown"):
        await sql.visit(TRY, body)
    assert await count(sql) == 0
    assert (await run(sql, TRY)).rule is Rule.RUN


async def test_a_handler_stopped_inside_a_statement_is_rolled_back(sql: SqlFence) -> None:
    counting = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000) SELECT count(*) FROM n"
    )
    started = asyncio.Event()

    async def body(_: Record | None) -> bytes:
        await sql.session.execute(insert(EFFECTS).values(name="effect"))
        started.set()
        await sql.session.execute(counting)
        return b""

    visiting = asyncio.create_task(sql.visit(TRY, body))
    await started.wait()
    await asyncio.sleep(0)
    visiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visiting

    assert (await run(sql, TRY)).rule is Rule.RUN
    assert await count(sql) == 0


# Several connections.


async def test_tries_through_two_engines_run_once(sql: SqlFence, second: SqlFence) -> None:
    fences = [sql, second] * 6
    verdicts = await asyncio.gather(*(fence.visit(TRY, effect(fence)) for fence in fences))

    assert await count(sql) == 1
    assert sorted(verdict.rule.name for verdict in verdicts) == ["REPLY"] * 11 + ["RUN"]


async def test_confirms_through_two_engines_have_one_effect(sql: SqlFence, second: SqlFence) -> None:
    await run(sql, TRY)
    fences = [sql, second] * 6
    await asyncio.gather(*(fence.visit(CONFIRM, effect(fence)) for fence in fences))
    assert await count(sql) == 1


async def test_tries_and_cancels_through_two_engines_leave_nothing_reserved(sql: SqlFence, second: SqlFence) -> None:
    def reserve(fence: SqlFence, name: str) -> Body:
        return effect(fence, name)

    def give_back(fence: SqlFence, name: str) -> Body:
        async def body(_: Record | None) -> bytes:
            deleted = await fence.session.execute(EFFECTS.delete().where(EFFECTS.c.name == name))
            assert deleted.rowcount == 1  # type: ignore[attr-defined]  # a CursorResult
            return b""

        return body

    async def one(gid: str) -> None:
        await asyncio.gather(
            sql.visit(replace(TRY, gid=gid), reserve(sql, gid)),
            second.visit(replace(CANCEL, gid=gid), give_back(second, gid)),
        )

    await asyncio.gather(*(one(f"g-{number}") for number in range(20)))
    assert await count(sql) == 0


async def test_reads_through_the_engine_do_not_wait_for_a_writer(sql: SqlFence) -> None:
    async def body(_: Record | None) -> bytes:
        await sql.session.execute(insert(EFFECTS).values(name="effect"))
        return str(await count(sql)).encode()  # on a connection of its own: sees what is committed

    verdict = await sql.visit(TRY, body)
    assert verdict.record is not None
    assert verdict.record.reply == b"0"


async def test_a_database_that_is_gone_is_unavailable_and_not_the_handlers_fault(url: str, sql: SqlFence) -> None:
    async with sql.engine.begin() as connection:
        await connection.execute(text("DROP TABLE tcc_fence"))
    with pytest.raises(FenceUnavailable, match=r"no such table|does not exist"):
        await sql.visit(TRY, Business())


# Use.


async def test_there_is_no_session_outside_of_a_phase(sql: SqlFence, second: SqlFence) -> None:
    with pytest.raises(tcc.UsageError, match="only while a Try, Confirm or Cancel handler runs"):
        _ = sql.session

    async def body(record: Record | None) -> bytes:
        with pytest.raises(tcc.UsageError):
            _ = second.session  # another fence's
        return b""

    await sql.visit(TRY, body)


async def test_a_transaction_of_the_services_own_commits_or_leaves_nothing(sql: SqlFence, second: SqlFence) -> None:
    async with sql.begin() as connection:
        await connection.execute(insert(EFFECTS).values(name="kept"))

    async def fails() -> None:
        async with sql.begin() as connection:
            await connection.execute(insert(EFFECTS).values(name="lost"))
            raise KeyError

    with pytest.raises(KeyError):
        await fails()
    assert await count(second) == 1


async def test_a_transaction_of_the_services_own_is_refused_inside_of_a_phase(sql: SqlFence) -> None:
    async def body(record: Record | None) -> bytes:
        with pytest.raises(tcc.UsageError, match=r"fence\.session"):
            async with sql.begin():
                raise AssertionError("it must not begin")
        return b""

    await sql.visit(TRY, body)


async def test_a_task_left_behind_gets_no_session_once_the_phase_is_over(sql: SqlFence) -> None:
    over = asyncio.Event()

    async def straggle() -> None:
        await over.wait()
        with pytest.raises(tcc.UsageError, match="phase is over"):
            _ = sql.session

    async def body(_: Record | None) -> bytes:
        left.append(asyncio.create_task(straggle()))
        return b""

    left: list[asyncio.Task[None]] = []
    await sql.visit(TRY, body)
    over.set()
    await left[0]


@pytest.mark.parametrize("memory", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:"])
def test_a_database_in_memory_is_refused(memory: str) -> None:
    with pytest.raises(tcc.UsageError, match="name a file, or use MemoryFence"):
        SqlFence(memory)


@pytest.mark.parametrize("wrong", ["sqlite:///service.db", "nonsense", "oracle://x"])
def test_a_url_without_an_async_driver_is_refused(wrong: str) -> None:
    with pytest.raises(tcc.UsageError, match=r"sqlite\+aiosqlite"):
        SqlFence(wrong)


async def test_an_engine_of_the_services_own_is_used_and_left_open(url: str, sql: SqlFence) -> None:
    engine = create_async_engine(url)
    fence = SqlFence(engine)
    await fence.visit(TRY, effect(fence))
    await fence.close()

    assert await count(fence) == 1
    await engine.dispose()


async def test_creating_the_tables_again_does_nothing(sql: SqlFence, second: SqlFence) -> None:
    await run(sql, TRY)
    await asyncio.gather(sql.create_tables(), second.create_tables())
    assert (await run(sql, TRY)).rule is Rule.REPLY


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_ddl_names_every_column(dialect: str) -> None:
    statement = ddl(dialect)
    assert statement.startswith("CREATE TABLE IF NOT EXISTS tcc_fence")
    assert all(column.name in statement for column in FENCE_TABLE.columns)


def test_ddl_of_another_database_is_refused() -> None:
    with pytest.raises(tcc.UsageError, match="sqlite, postgresql"):
        ddl("mysql")
