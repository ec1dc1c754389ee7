"""Transactions that a handler, or the database itself, ends under the fence: nothing is told as done that is not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError

import tcc
from tcc.fence import FenceUnavailable, Record, Rule
from tests.fence.lists import EFFECTS, effect, effects, in_one_list, of, prepare, verdict
from tests.fence.sharing import SharingFence
from tests.fence.visits import CONFIRM, TRY, run


@pytest.fixture
async def fence(url: str) -> AsyncIterator[SharingFence]:
    fence = await prepare(SharingFence(url))
    yield fence
    await fence.close()


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[SharingFence]:
    fence = await prepare(SharingFence(sqlite_url))
    yield fence
    await fence.close()


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[SharingFence]:
    fence = await prepare(SharingFence(postgres_url))
    yield fence
    await fence.close()


@pytest.mark.parametrize(
    "ending", ["COMMIT", "ROLLBACK", "end", "ROLLBACK TRANSACTION", "/* so */ COMMIT", "-- so\nCOMMIT", "; commit"]
)
async def test_a_statement_that_would_end_it_is_refused_in_a_list_and_the_others_stay(
    fence: SharingFence, ending: str
) -> None:
    async def ends_it(_: Record | None) -> bytes:
        await fence.session.execute(insert(EFFECTS).values(name="own"))
        await fence.session.execute(text(ending))
        return b""

    pairs = [(of("g-0"), effect(fence, "x")), (of("g-1"), ends_it), (of("g-2"), effect(fence, "y"))]
    ends = await in_one_list(fence, pairs)
    assert isinstance(ends[1], tcc.UsageError)
    assert [verdict(ends[at]).rule for at in (0, 2)] == [Rule.RUN] * 2
    assert (fence.lists, fence.alone) == ([3], 0)
    assert await effects(fence) == ["x", "y"]
    assert (await run(fence, of("g-1", CONFIRM))).rule is Rule.NO_TRY


@pytest.mark.parametrize("goes_on", [False, True], ids=["returns", "goes on"])
async def test_on_sqlite_a_transaction_that_an_error_rolled_back_takes_no_neighbours_effect_along(
    sqlite: SharingFence, goes_on: bool
) -> None:
    async def ends_it(_: Record | None) -> bytes:
        await sqlite.session.execute(insert(EFFECTS).values(name="own"))
        with pytest.raises(DBAPIError):
            await sqlite.session.execute(text("INSERT OR ROLLBACK INTO effects VALUES ('own')"))
        if goes_on:
            await sqlite.session.execute(insert(EFFECTS).values(name="more"))
        return b""

    pairs = [(of("g-0"), effect(sqlite, "x")), (of("g-1"), ends_it), (of("g-2"), effect(sqlite, "y"))]
    ends = await in_one_list(sqlite, pairs)
    assert isinstance(ends[1], FenceUnavailable)
    assert [verdict(ends[at]).rule for at in (0, 2)] == [Rule.RUN] * 2
    assert await effects(sqlite) == ["x", "y"]
    assert (await run(sqlite, of("g-1", CONFIRM))).rule is Rule.NO_TRY


async def test_on_postgresql_a_transaction_that_was_rolled_back_behind_the_session_is_not_told_as_done(
    postgres: SharingFence,
) -> None:
    async def ends_it(_: Record | None) -> bytes:
        connection = await postgres.session.connection()
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.execute("ROLLBACK")
        return b""

    with pytest.raises(FenceUnavailable, match="ended by somebody else"):
        await postgres.visit_alone(TRY, ends_it)
    assert (await run(postgres, CONFIRM)).rule is Rule.NO_TRY
