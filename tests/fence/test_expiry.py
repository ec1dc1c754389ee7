"""A reservation that expires: when it does is kept with its reply."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tcc.fence import Expiring, Fence, FenceUnavailable, Record, Rule, SqlFence, ddl
from tests.fence.visits import CANCEL, CONFIRM, TRY, Business, run

AT = 1_800_000_000.125


async def until(_: Record | None) -> Expiring:
    return Expiring(b"reply", AT)


async def test_a_repeated_try_finds_when_its_reservation_expires(fence: Fence) -> None:
    first = await fence.visit(TRY, until)
    again = await fence.visit(TRY, Business(b"another"))

    assert (first.rule, again.rule) == (Rule.RUN, Rule.REPLY)
    for verdict in (first, again):
        assert verdict.record is not None
        assert (verdict.record.reply, verdict.record.expires_at) == (b"reply", AT)


async def test_confirm_and_its_repeat_find_it_too(fence: Fence) -> None:
    await fence.visit(TRY, until)
    business = Business()
    await fence.visit(CONFIRM, business)
    again = await fence.visit(CONFIRM, Business())

    for record in (business.seen, again.record):
        assert record is not None
        assert (record.reply, record.expires_at) == (b"reply", AT)


async def test_a_reservation_that_does_not_expire_has_no_such_time(fence: Fence) -> None:
    await run(fence, TRY)
    verdict = await run(fence, TRY)
    assert verdict.record is not None
    assert verdict.record.expires_at is None
    await run(fence, CANCEL)


async def test_a_table_of_an_older_version_is_named_with_what_to_do(sql: SqlFence) -> None:
    async with sql.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE tcc_fence DROP COLUMN expires_at"))
    for visit in (TRY, CONFIRM):
        with pytest.raises(FenceUnavailable, match="ALTER TABLE tcc_fence ADD COLUMN expires_at BIGINT"):
            await sql.visit(visit, Business())

    async with sql.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE tcc_fence ADD COLUMN expires_at BIGINT"))
    assert (await run(sql, TRY)).rule is Rule.RUN


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_column_is_in_the_ddl(dialect: str) -> None:
    assert "expires_at BIGINT" in ddl(dialect)
    assert "expires_at BIGINT NOT NULL" not in ddl(dialect)
