"""An installation in the test's own process: a manager on SQLite, two banks on SQLite, real loopback connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tcc
from services.accounts._database import ACCOUNTS, METADATA
from services.accounts._service import Accounts
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub, add_AccountsServicer_to_server
from tcc_server.app import ManagerApp
from tcc_server.config import Config, Participant, Retry
from tests.spine.books import Books, read_books, violations
from tests.spine.traffic import Traffic

OPENING = 1000
BANKS = ("bank-a", "bank-b")
QUICK = Retry(
    answer_timeout=0.5, answer_timeout_max=1.0, backoff_first=0.02, backoff_max=0.2, try_backoff_max=0.1, record_after=0
)


@dataclass
class Bank:
    """A bank that serves in this process, with the account `ann`.

    Attributes:
        traffic: what happens to calls on their way in.
    """

    name: str
    database: Path
    traffic: Traffic = field(default_factory=Traffic)
    port: int = 0
    server: tcc.ParticipantServer | None = None
    fence: tcc.SqlFence | None = None

    async def start(self) -> None:
        """Serve; a second time on the same port and database."""
        self.fence = fence = tcc.SqlFence(f"sqlite+aiosqlite:///{self.database}")
        await fence.create_tables()
        async with fence.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
            opened = ACCOUNTS.insert().prefix_with("OR IGNORE")
            await connection.execute(opened.values(account="ann", opened_with=OPENING, available=OPENING, reserved=0))
        self.server = tcc.ParticipantServer(
            f"127.0.0.1:{self.port}", fence=fence, name=self.name, interceptors=[self.traffic]
        )
        add_AccountsServicer_to_server(Accounts(fence), self.server)
        await self.server.start()
        self.port = self.server.port

    async def stop(self) -> None:
        """Be gone."""
        if self.server is not None and self.fence is not None:
            await self.server.stop(None)
            await self.fence.close()
            self.server = self.fence = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def books(self) -> Books:
        return read_books(self.database)

    @property
    def ann(self) -> tuple[int, int]:
        """What is available to ann, and what is reserved."""
        return self.books.accounts["ann"]

    def fence_state(self, gid: str) -> str | None:
        """The state of the transaction's only branch here."""
        states = [state for (found, _), state in self.books.fence.items() if found == gid]
        assert len(states) <= 1
        return states[0] if states else None


@dataclass
class Installation:
    """Two banks, and what clients need of the manager."""

    bank_a: Bank
    bank_b: Bank
    manager: tcc.Manager
    address: str

    @property
    def banks(self) -> tuple[Bank, Bank]:
        return self.bank_a, self.bank_b

    async def ended(self, gid: str) -> tcc.TransactionView:
        """The transaction once it is final."""
        return await ended(self.manager, gid)

    async def check(self) -> None:
        """All transactions end, and every promise holds."""
        gids = [tx.gid async for tx in self.manager.list()]
        views = [await self.ended(gid) for gid in gids]
        assert violations((bank.books for bank in self.banks), views, OPENING * len(BANKS)) == []


@asynccontextmanager
async def two_banks(folder: Path) -> AsyncIterator[tuple[Bank, Bank]]:
    """The banks alone."""
    async with AsyncExitStack() as stack:
        banks = [Bank(name, folder / f"{name}.db") for name in BANKS]
        for bank in banks:
            stack.push_async_callback(bank.stop)
            await bank.start()
        yield banks[0], banks[1]


def config(folder: Path, *banks: Bank, listen: str = "127.0.0.1:0", **more: Any) -> Config:
    """A manager's configuration on `tcc.db` in the folder."""
    participants = {bank.name: Participant(endpoint=bank.address) for bank in banks}
    settings = {"retry": QUICK, "log_level": "error", "reflection": True, **more}
    return Config(listen=listen, log=f"sqlite:///{folder}/tcc.db", participants=participants, **settings)


@asynccontextmanager
async def running(settings: Config, **options: Any) -> AsyncIterator[tuple[ManagerApp, tcc.Manager]]:
    """A manager in this process, and a client of it."""
    app = ManagerApp(settings, **options)
    await app.start()
    try:
        async with tcc.Manager(app.listen) as manager:
            yield app, manager
    finally:
        await app.stop()


def debit(bank: str, amount: int, *, account: str = "ann", **options: Any) -> Any:
    """A planned debit."""
    stub = AccountsStub(tcc.plan.participant(bank))
    return stub.TryDebit(pb.DebitRequest(account=account, amount=amount), **options)


def credit(bank: str, amount: int, *, account: str = "ann", **options: Any) -> Any:
    """A planned credit."""
    stub = AccountsStub(tcc.plan.participant(bank))
    return stub.TryCredit(pb.CreditRequest(account=account, amount=amount), **options)


def transfer(amount: int, **options: Any) -> tuple[Any, Any]:
    """A planned transfer from bank-a to bank-b."""
    return debit("bank-a", amount, **options), credit("bank-b", amount, **options)


async def ended(manager: tcc.Manager, gid: str) -> tcc.TransactionView:
    """The transaction once it is final."""
    async for view in manager.watch(gid):
        if view.state.is_final:
            return view
    return await manager.get(gid)
