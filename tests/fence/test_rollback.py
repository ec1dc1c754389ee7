"""A handler that undoes its own effect has not reserved, confirmed or cancelled anything: it may refuse or fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import grpc
import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import tcc
from tcc.fence import Body, Record, Refusal, Rule, SqlFence, Visit
from tests.fence.visits import CANCEL, CONFIRM, TRY, run

REFUSAL = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "no")

Undoing: TypeAlias = Callable[[AsyncSession], Awaitable[object]]


class Base(DeclarativeBase):
    """The tables of these tests."""


class Effect(Base):
    """What a handler does."""

    __tablename__ = "effects"
    name: Mapped[str] = mapped_column(primary_key=True)


EFFECT = insert(Effect).values(name="effect")


@pytest.fixture(autouse=True)
async def effects(sql: SqlFence) -> None:
    async with sql.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


async def names(fence: SqlFence) -> list[str]:
    async with fence.engine.connect() as connection:
        return list(await connection.scalars(select(Effect.name)))


async def rolls_back(session: AsyncSession) -> None:
    await session.execute(EFFECT)
    await session.rollback()


async def rolls_back_after_its_commit(session: AsyncSession) -> None:
    await session.execute(EFFECT)
    await session.commit()
    await session.execute(insert(Effect).values(name="another"))
    await session.rollback()


async def rolls_back_and_goes_on(session: AsyncSession) -> None:
    await rolls_back(session)
    await session.execute(insert(Effect).values(name="another"))


async def leaves_a_block_by_an_error(session: AsyncSession) -> None:
    with suppress(KeyError):
        async with session.begin():
            await session.execute(EFFECT)
            raise KeyError


async def rolls_back_what_was_not_written(session: AsyncSession) -> None:
    session.add(Effect(name="effect"))
    await session.rollback()


async def closes_over_what_was_not_written(session: AsyncSession) -> None:
    async with session:
        session.add(Effect(name="effect"))


async def rolls_back_a_failed_flush(session: AsyncSession) -> None:
    session.add(Effect(name="there before"))
    with suppress(IntegrityError):
        await session.flush()
    await session.rollback()


async def rolls_back_through_the_connection(session: AsyncSession) -> None:
    await session.execute(EFFECT)
    connection = await session.connection()
    with suppress(tcc.UsageError):
        await connection.rollback()


UNDOING: list[Undoing] = [
    rolls_back,
    rolls_back_after_its_commit,
    rolls_back_and_goes_on,
    leaves_a_block_by_an_error,
    rolls_back_what_was_not_written,
    closes_over_what_was_not_written,
    rolls_back_a_failed_flush,
]


def body(fence: SqlFence, undo: Undoing, result: bytes | Refusal | Exception) -> Body:
    async def handler(_: Record | None) -> bytes | Refusal:
        await undo(fence.session)
        if isinstance(result, Exception):
            raise result
        return result

    return handler


async def prepare(fence: SqlFence, visit: Visit) -> None:
    async with fence.begin() as connection:
        await connection.execute(insert(Effect).values(name="there before"))
    if visit is not TRY:
        await run(fence, TRY)


@pytest.mark.parametrize("undo", UNDOING, ids=lambda undo: undo.__name__)
@pytest.mark.parametrize("visit", [TRY, CONFIRM, CANCEL], ids=lambda visit: visit.phase)
async def test_a_reply_after_it_is_an_error_that_says_what_to_do_and_nothing_counts(
    sql: SqlFence, visit: Visit, undo: Undoing
) -> None:
    await prepare(sql, visit)
    with pytest.raises(tcc.UsageError, match=r"raise tcc\.Refused instead"):
        await sql.visit(visit, body(sql, undo, b"as if it were done"))

    assert await names(sql) == ["there before"]
    assert (await run(sql, visit)).rule is Rule.RUN


@pytest.mark.parametrize("visit", [TRY, CONFIRM], ids=lambda visit: visit.phase)
async def test_a_reply_after_ending_the_fences_own_transaction_never_counts(sql: SqlFence, visit: Visit) -> None:
    await prepare(sql, visit)
    with pytest.raises(tcc.TccError):
        await sql.visit(visit, body(sql, rolls_back_through_the_connection, b"as if it were done"))

    assert await names(sql) == ["there before"]
    assert (await run(sql, visit)).rule is Rule.RUN


@pytest.mark.parametrize("undo", UNDOING, ids=lambda undo: undo.__name__)
async def test_a_refusal_after_it_is_a_refusal(sql: SqlFence, undo: Undoing) -> None:
    await prepare(sql, TRY)
    await sql.visit(TRY, body(sql, undo, REFUSAL))

    assert await names(sql) == ["there before"]
    assert (await run(sql, TRY)).rule is Rule.REFUSE


@pytest.mark.parametrize("undo", UNDOING, ids=lambda undo: undo.__name__)
async def test_its_own_error_after_it_comes_out(sql: SqlFence, undo: Undoing) -> None:
    await prepare(sql, TRY)
    with pytest.raises(KeyError, match="bug"):
        await sql.visit(TRY, body(sql, undo, KeyError("bug")))

    assert await names(sql) == ["there before"]
    assert (await run(sql, TRY)).rule is Rule.RUN


async def test_after_it_the_handler_can_still_read(sql: SqlFence) -> None:
    await prepare(sql, TRY)

    async def handler(_: Record | None) -> Refusal:
        with pytest.raises(IntegrityError):
            await sql.session.execute(insert(Effect).values(name="there before"))
        await sql.session.rollback()
        count = await sql.session.scalar(select(func.count()).select_from(Effect))
        return Refusal(grpc.StatusCode.ALREADY_EXISTS, f"{count} there already")

    verdict = await sql.visit(TRY, handler)
    assert verdict.record is not None
    assert verdict.record.refusal is not None
    assert verdict.record.refusal.text == "1 there already"


async def test_a_part_that_failed_in_a_savepoint_of_its_own_does_not_undo_the_rest(sql: SqlFence) -> None:
    await prepare(sql, TRY)

    async def handler(_: Record | None) -> bytes:
        await sql.session.execute(EFFECT)
        with suppress(IntegrityError):
            async with sql.session.begin_nested():
                await sql.session.execute(insert(Effect).values(name="there before"))
        return b"done"

    await sql.visit(TRY, handler)
    assert sorted(await names(sql)) == ["effect", "there before"]
    assert (await run(sql, TRY)).rule is Rule.REPLY


@pytest.mark.parametrize("closing", ["close", "with", "commit and close", "begin"])
async def test_closing_or_committing_what_was_written_keeps_it(sql: SqlFence, closing: str) -> None:
    async def handler(_: Record | None) -> bytes:
        session = sql.session
        if closing == "begin":
            async with session.begin():
                session.add(Effect(name="effect"))
        elif closing == "with":
            async with session:
                await session.execute(EFFECT)
        else:
            await session.execute(EFFECT)
            if closing == "commit and close":
                await session.commit()
            await session.close()
        return b"done"

    await sql.visit(TRY, handler)
    assert await names(sql) == ["effect"]


async def test_a_rollback_of_a_session_that_did_nothing_is_no_error(sql: SqlFence) -> None:
    async def handler(_: Record | None) -> bytes:
        await sql.session.rollback()
        await sql.session.execute(EFFECT)
        return b"done"

    await sql.visit(TRY, handler)
    assert await names(sql) == ["effect"]
