"""What is particular to the fence on SQLite, which has one writer at a time."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from tcc.fence import FenceBusy, FenceUnavailable, Record, Rule, SqlFence, _sqlite
from tests.fence.lists import of
from tests.fence.sharing import SharingFence
from tests.fence.visits import CONFIRM, TRY, Business, run


@pytest.fixture
async def impatient(sqlite_url: str) -> AsyncIterator[SqlFence]:
    fence = SqlFence(sqlite_url, row_wait=0.05)
    await fence.create_tables()
    yield fence
    await fence.close()


async def test_waiting_for_a_writer_of_another_process_ends_in_busy(impatient: SqlFence, sqlite_url: str) -> None:
    other = create_async_engine(sqlite_url)
    try:
        async with other.connect() as connection:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            with pytest.raises(FenceBusy) as raised:
                await impatient.visit(TRY, Business())
            assert raised.value.retry_after > 0
            await connection.exec_driver_sql("ROLLBACK")
        assert (await run(impatient, TRY)).rule is Rule.RUN
    finally:
        await other.dispose()


async def test_waiting_for_a_writer_of_this_process_ends_in_busy(impatient: SqlFence) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_: Record | None) -> bytes:
        entered.set()
        await leave.wait()
        return b""

    visiting = asyncio.create_task(impatient.visit(TRY, slow))
    await entered.wait()
    with pytest.raises(FenceBusy, match="other writers"):  # in line for its turn, not polling the file
        await impatient.visit(TRY, Business())
    leave.set()
    assert (await visiting).rule is Rule.RUN


async def test_the_services_own_writes_take_their_turn_among_the_visits(impatient: SqlFence) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_: Record | None) -> bytes:
        entered.set()
        await leave.wait()
        return b""

    visiting = asyncio.create_task(impatient.visit(TRY, slow))
    await entered.wait()
    with pytest.raises(FenceBusy, match="other writers"):
        async with impatient.begin():
            raise AssertionError("it must not begin")
    leave.set()
    assert (await visiting).rule is Rule.RUN


async def test_a_visit_that_is_cancelled_at_any_moment_lets_go_of_the_database_at_once(sqlite_url: str) -> None:
    fence = SqlFence(sqlite_url, row_wait=1.0)
    await fence.create_tables()

    async def reads(_: Record | None) -> bytes:
        await fence.session.execute(text("SELECT 1"))
        return b""

    gc.disable()  # so that nothing is let go of only because it happens to be collected
    try:
        for turns in range(0, 300, 3):
            visiting = asyncio.create_task(fence.visit(replace(TRY, gid=f"cancelled-{turns}"), reads))
            for _ in range(turns):
                await asyncio.sleep(0)
            visiting.cancel()
            # Not BUSY: nobody is there to hold the database but the one that was cancelled.
            assert (await fence.visit(replace(TRY, gid=f"next-{turns}"), reads)).rule is Rule.RUN
            await asyncio.gather(visiting, return_exceptions=True)
    finally:
        gc.enable()
        await fence.close()


class LosesReplies:
    """An `sqlite3.Connection` whose first commit (or another one) is done and then said to have failed."""

    def __init__(self, connection: sqlite3.Connection, *, only: int = 1) -> None:
        self._connection = connection
        self._commits = 0
        self._only = only

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        cursor = self._connection.execute(statement, *parameters)
        self._commits += statement == "COMMIT"
        if statement == "COMMIT" and self._commits == self._only:
            raise sqlite3.OperationalError("disk I/O error")
        return cursor


async def test_a_commit_that_was_done_and_then_lost_is_unknown_and_the_next_visit_finds_out(sqlite_url: str) -> None:
    fence = SqlFence(sqlite_url)
    await fence.create_tables()
    lossy = SqlFence(sqlite_url)

    @event.listens_for(lossy.engine.sync_engine, "connect")
    def lose(connection: Any, _entry: object) -> None:
        connection.driver_connection._connection = LosesReplies(connection.driver_connection._connection)

    with pytest.raises(FenceUnavailable, match="unknown"):
        await lossy.visit(TRY, Business(b"first"))
    verdict = await fence.visit(TRY, Business(b"second"))
    assert verdict.rule is Rule.REPLY
    assert verdict.record is not None
    assert verdict.record.reply == b"first"
    await lossy.close()
    await fence.close()


async def test_an_engine_whose_pool_resets_nothing_gets_its_connections_back_clean(sqlite_url: str) -> None:
    engine = create_async_engine(sqlite_url, pool_reset_on_return=None)
    fence = SqlFence(engine)
    await fence.create_tables()
    with pytest.raises(ValueError, match="bug"):
        await fence.visit(TRY, Business(ValueError("bug")))
    assert (await run(fence, CONFIRM)).rule is Rule.NO_TRY
    assert (await run(fence, TRY)).rule is Rule.RUN
    await engine.dispose()


@pytest.mark.parametrize("kind", [SqlFence, SharingFence], ids=["alone", "shared"])
@pytest.mark.parametrize("ending", ["COMMIT", " commit ", "END TRANSACTION", "ROLLBACK", "rollback transaction"])
async def test_a_statement_that_would_end_the_transaction_is_refused_and_nothing_stays(
    sqlite_url: str, kind: type[SqlFence], ending: str
) -> None:
    async with kind(sqlite_url) as fence:
        await fence.create_tables()
        async with fence.begin() as connection:
            await connection.execute(text("CREATE TABLE notes (word VARCHAR)"))

        async def ends_it(_: Record | None) -> bytes:
            await fence.session.execute(text("INSERT INTO notes VALUES ('effect')"))
            await fence.session.execute(text(ending))
            return b""

        with pytest.raises(tcc.UsageError, match="would end it"):
            await fence.visit(TRY, ends_it)
        async with fence.engine.connect() as connection:
            assert (await connection.scalars(text("SELECT word FROM notes"))).all() == []
        assert (await run(fence, TRY)).rule is Rule.RUN


async def test_a_handler_may_use_savepoints_by_statements_of_its_own(sqlite_url: str) -> None:
    async with SqlFence(sqlite_url) as fence:
        await fence.create_tables()

        async def undoes_a_part(_: Record | None) -> bytes:
            for statement in ("SAVEPOINT mine", "CREATE TABLE part (word VARCHAR)", "ROLLBACK TO mine", "RELEASE mine"):
                await fence.session.execute(text(statement))
            return b""

        assert (await fence.visit(TRY, undoes_a_part)).rule is Rule.RUN


async def test_an_sqlite_without_json_functions_is_warned_of_once(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_sqlite, "_USES_JSON", "SELECT no_such_function()")
    monkeypatch.setattr(_sqlite, "_LOOK_AT_ALL", "SELECT no_such_function(?)")
    fence = SharingFence(sqlite_url)
    await fence.create_tables()
    ends = await asyncio.gather(*(fence.visit(of(f"g-{number}"), Business()) for number in range(3)))
    async with fence.engine.connect(), fence.engine.connect():
        pass
    await fence.close()
    assert [end.rule for end in ends] == [Rule.RUN] * 3
    assert fence.alone == 3
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "tcc.fence"]
    assert "built without its JSON functions (no such function: no_such_function)" in warning


async def test_an_sqlite_with_json_functions_is_not_warned_of(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    fence = SharingFence(sqlite_url)
    await fence.create_tables()
    await fence.close()
    assert not caplog.records
