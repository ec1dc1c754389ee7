"""The books of the stack, and what must be in them: all the time, and when everything has ended.

The names of the checks are those of the promises' list; `tests.spine.books` has those that both share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import asyncpg  # type: ignore[import-untyped]  # it has none
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import tcc
from tests.rabbitmq.broker import depth
from tests.rabbitmq.ends import until
from tests.spine.books import Books, violations
from tests.stack.installation import Stack

_BOOKS = text(
    "SELECT account AS key, '' AS branch, available, reserved, '' AS state FROM accounts WHERE account LIKE :run "
    "UNION ALL SELECT gid, branch, 0, 0, state FROM tcc_fence WHERE gid LIKE :run"
)
"""One statement sees both tables at the same moment."""
_DECISIONS = text("SELECT gid, state FROM tcc_transaction WHERE gid LIKE :run AND decided_at IS NOT NULL")
_DECIDED = {"CONFIRMING": "CONFIRMED", "CANCELLING": "CANCELLED"}
_EVERY = 0.1
"""Seconds between two looks while a run is under way."""
END = 40.0
"""Seconds after which every transaction has ended, once what was broken is whole."""


@dataclass
class Asked:
    """A transfer that was asked for.

    Attributes:
        out, into: the banks.
        account: of that name at both.
        told: what its client was told; None: nothing certain.
    """

    out: str
    into: str
    account: str
    amount: int
    told: tcc.Decision | None = None


@dataclass
class Run:
    """What one test does on the stack.

    Attributes:
        name: what all of its gids and accounts begin with.
        accounts: opened with `opening` at both banks.
        asked: by gid.
    """

    stack: Stack
    name: str
    accounts: tuple[str, ...]
    opening: int
    asked: dict[str, Asked] = field(default_factory=dict)

    @property
    def told(self) -> int:
        """How many clients know what was decided."""
        return sum(one.told is not None for one in self.asked.values())

    async def books(self, bank: str) -> Books:
        """What this run has in a bank's database."""
        engine = create_async_engine(self.stack.database(bank))
        try:
            return await _read(engine, self.name)
        finally:
            await engine.dispose()

    async def check(self, client: tcc.Manager) -> Mapping[str, tcc.TransactionView]:
        """All transactions end, and every promise was kept. Gives them as they ended."""
        found: dict[str, tcc.TransactionView] = {}
        async with asyncio.timeout(END):
            for gid, asked in self.asked.items():
                try:
                    view = await client.get(gid)
                    found[gid] = view if view.state.is_final else await client.wait(gid)
                except tcc.ManagerError:
                    if asked.told is not None:
                        raise  # S10: it was told, and is not in the log
        books = {bank: await self.books(bank) for bank in ("a", "b")}
        opened = self.opening * len(self.accounts) * len(books)
        broken = violations(books.values(), list(found.values()), opened)
        for gid, view in found.items():
            told = self.asked[gid].told
            if told not in (None, view.decision):
                broken.append(f"S5: the client of {gid} was told {told}, and it was decided {view.decision}")
            if view.attention:
                broken.append(f"L2: {gid} needs attention: {view.last_error}")
        assert broken == []
        assert {key: balance for bank in books for key, balance in _balances(bank, books[bank]).items()} == (
            self._expected(found)
        ), "S7: an effect happened not once"
        for name in (*self.stack.far, *self.stack.near):
            await until(partial(_empty, self.stack.servers.rabbitmq, name), END)
        return found

    def _expected(self, found: Mapping[str, tcc.TransactionView]) -> dict[tuple[str, str], int]:
        balances = {(bank, account): self.opening for bank in ("a", "b") for account in self.accounts}
        for gid, view in found.items():
            if view.decision is tcc.Decision.CONFIRM:
                asked = self.asked[gid]
                balances[_short(asked.out), asked.account] -= asked.amount
                balances[_short(asked.into), asked.account] += asked.amount
        return balances

    @asynccontextmanager
    async def audited(self) -> AsyncIterator[Audit]:
        """Looks at all databases again and again; what was wrong at any moment fails at the end."""
        async with AsyncExitStack() as held:
            urls = {"log": self.stack.log, **{bank: self.stack.database(bank) for bank in ("a", "b")}}
            engines = {name: create_async_engine(url, pool_size=1) for name, url in urls.items()}
            for engine in engines.values():
                held.push_async_callback(engine.dispose)
            audit = Audit(self, engines)
            looking = asyncio.create_task(audit.look())
            try:
                yield audit
            finally:
                audit.over.set()
                await looking
        assert audit.looks > 0
        assert audit.broken == []


class Audit:
    """The checks that hold always."""

    def __init__(self, run: Run, engines: Mapping[str, AsyncEngine]) -> None:
        self._run = run
        self._engines = engines
        self._decided: dict[str, str] = {}
        self._settled: dict[tuple[str, str], str] = {}
        self.over = asyncio.Event()
        self.looks = 0
        self.broken: list[str] = []

    async def look(self) -> None:
        """Until it is over."""
        while not self.over.is_set():
            # A database may be down, which is no broken promise; SQLAlchemy 2.0 hands on what asyncpg says then.
            with suppress(OSError, SQLAlchemyError, asyncpg.PostgresError):
                await self._look()
                self.looks += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), _EVERY)

    async def _look(self) -> None:
        settled: dict[tuple[str, str], str] = {}
        for bank in ("a", "b"):
            books = await _read(self._engines[bank], self._run.name)
            self._reserved(bank, books)
            settled |= {key: state for key, state in books.fence.items() if state in ("CONFIRMED", "CANCELLED")}
        for key, state in self._settled.items():
            if settled.get(key) != state:
                self.broken.append(f"S8: {key} was {state} and is {settled.get(key)}")
        self._settled = settled
        # The log is read after the banks: what they did, it must have decided before.
        async with self._engines["log"].connect() as connection:
            rows = await connection.execute(_DECISIONS, {"run": f"{self._run.name}-%"})
            decided = {row.gid: _DECIDED.get(row.state, row.state) for row in rows}
        for gid, state in self._decided.items():
            if decided.get(gid) != state:
                self.broken.append(f"S2: {gid} was decided {state}, and later {decided.get(gid)}")
        self._decided = decided
        for (gid, step), state in settled.items():
            if decided.get(gid) != state:
                self.broken.append(f"S4: {gid}/{step} was {state}, and the log had decided {decided.get(gid)}")

    def _reserved(self, bank: str, books: Books) -> None:
        tried = dict.fromkeys(self._run.accounts, 0)
        for (gid, step), state in books.fence.items():
            asked = self._run.asked[gid]
            if state == "TRIED" and step == "0" and _short(asked.out) == bank:
                tried[asked.account] += asked.amount
        for account, (available, reserved) in books.accounts.items():
            if available < 0 or reserved != tried[account]:
                self.broken.append(f"S6: {account} has {available}, {reserved} reserved, and Tries of {tried[account]}")


async def _read(engine: AsyncEngine, run: str) -> Books:
    async with engine.connect() as connection:
        rows = (await connection.execute(_BOOKS, {"run": f"{run}-%"})).all()
    return Books(
        accounts={row.key: (int(row.available), int(row.reserved)) for row in rows if not row.state},
        fence={(row.key, row.branch): row.state for row in rows if row.state},
    )


def _balances(bank: str, books: Books) -> dict[tuple[str, str], int]:
    return {(bank, account): available for account, (available, _) in books.accounts.items()}


def _short(bank: str) -> str:
    return bank.removeprefix("near-")[0]


async def _empty(rabbitmq: str, participant: str) -> bool:
    return await depth(rabbitmq, participant) == 0
