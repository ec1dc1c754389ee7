"""Making lists on purpose, and effects to count."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, update

from tcc.fence import Body, Record, Verdict, Visit
from tests.fence.sharing import SharingFence
from tests.fence.visits import TRY

METADATA = MetaData()
EFFECTS = Table("effects", METADATA, Column("name", String, primary_key=True))
ACCOUNTS = Table("accounts", METADATA, Column("name", String, primary_key=True), Column("amount", Integer))

Pair: TypeAlias = tuple[Visit, Body]


def of(gid: str, visit: Visit = TRY) -> Visit:
    """The visit for another transaction."""
    return replace(visit, gid=gid)


async def prepare(fence: SharingFence) -> SharingFence:
    """Makes the tables, and accounts a and b with 100 each."""
    await fence.create_tables()
    async with fence.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        await connection.execute(insert(ACCOUNTS), [{"name": name, "amount": 100} for name in "ab"])
    return fence


def effect(fence: SharingFence, name: str) -> Body:
    """Writes a row."""

    async def body(_: Record | None) -> bytes:
        await fence.session.execute(insert(EFFECTS).values(name=name))
        return name.encode()

    return body


async def effects(fence: SharingFence) -> list[str]:
    """Names of the rows that are there."""
    async with fence.engine.connect() as connection:
        return sorted(await connection.scalars(select(EFFECTS.c.name)))


async def add(fence: SharingFence, account: str, amount: int) -> int:
    """Changes an account within a handler; gives what it has then."""
    change = update(ACCOUNTS).where(ACCOUNTS.c.name == account).values(amount=ACCOUNTS.c.amount + amount)
    left: int | None = await fence.session.scalar(change.returning(ACCOUNTS.c.amount))
    assert left is not None
    return left


async def amounts(fence: SharingFence) -> dict[str, int]:
    """What the accounts have."""
    async with fence.engine.connect() as connection:
        return {row.name: row.amount for row in await connection.execute(select(ACCOUNTS))}


class Held:
    """Holds up a fence's lists while in the block, so that what comes meanwhile goes together in the next.

    Args:
        fence: whose.
        gid: of the visit that does so; no other may have it.
    """

    def __init__(self, fence: SharingFence, gid: str = "held") -> None:
        self._fence = fence
        self._gid = gid
        self._leave = asyncio.Event()
        self._holding: asyncio.Task[Verdict] | None = None

    async def __aenter__(self) -> None:
        entered = asyncio.Event()

        async def hold(_: Record | None) -> bytes:
            entered.set()
            await self._leave.wait()
            return b""

        self._holding = asyncio.create_task(self._fence.visit(of(self._gid), hold))
        await entered.wait()
        self._fence.lists.clear()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # tasks that were made in the block knock
        self._leave.set()
        assert self._holding is not None
        await self._holding


async def knocking(fence: SharingFence, pairs: Sequence[Pair], held: str = "held") -> list[asyncio.Task[Verdict]]:
    """Visits that arrived while another list was under way, so that they share the next."""
    async with Held(fence, held):
        return [asyncio.create_task(fence.visit(visit, body)) for visit, body in pairs]


async def in_one_list(fence: SharingFence, pairs: Sequence[Pair], held: str = "held") -> list[Verdict | BaseException]:
    """Makes visits in one list; gives their ends in order."""
    return await asyncio.gather(*await knocking(fence, pairs, held), return_exceptions=True)


def verdict(end: Verdict | BaseException) -> Verdict:
    """The verdict with which a visit ended."""
    if isinstance(end, BaseException):
        raise end
    return end
