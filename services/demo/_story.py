"""The story: forty transfers, a bank that dies between Try and Confirm, a manager that dies with work under way.

Each crash is made to happen at its moment, not hoped for. Everything that the proof needs is noted as it is seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import tcc
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from services.demo._banks import Bank, Books
from services.demo._processes import Server
from services.demo._proof import BankKill, Check, Facts, Found, ManagerKill, prove
from services.demo._transfers import BANKS, Told, Transfer, carry_out, told_of, transfers

FIRST_ROUND = 13
SECOND_ROUND = 26
"""How many transfers are done when the second round begins, and when the third does."""

POLL = 0.02
"""Seconds between two looks at what is under way."""


class Story:
    """What happens, in order.

    Args:
        folder: for databases and logs.
        say: tells one step.
        answered: is told each client's answer.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], answered: Callable[[Told], None]) -> None:
        self._say = say
        self._answered = answered
        self._folder = folder
        self._banks = {name: Bank(name, folder) for name in BANKS}
        self._told: dict[str, Told] = {}
        self.manager = Server("manager", (), folder)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts the banks and the manager; stops whatever runs when the block ends, however it ends."""
        servers = [bank.server for bank in self._banks.values()]
        try:
            await asyncio.gather(*(server.start() for server in servers))
            endpoints = [server.address for server in servers]
            self.manager = Server(
                "manager",
                ("tcc", "dev", "--data", str(self._folder / "tcc"), "--participant", *endpoints),
                self._folder,
            )
            servers.append(self.manager)
            await self.manager.start()
            for server in servers:
                self._say(f"{server.name} serves at {server.address}")
            yield
        finally:
            await asyncio.gather(*(server.stop() for server in servers))

    async def tell(self) -> Facts:
        """All of it. Raises DemoFailed, and what the SDK raises, where it cannot go on."""
        await asyncio.gather(*(bank.open_accounts() for bank in self._banks.values()))
        before = await self._books()
        asked = transfers()
        async with tcc.Manager(self.manager.address) as manager:
            self._say(f"{FIRST_ROUND} transfers, all at once")
            await self._carry_out(manager, asked[:FIRST_ROUND])
            bank_kill = await self._kill_bank(manager, asked[FIRST_ROUND], asked[FIRST_ROUND + 1 : SECOND_ROUND])
            manager_kill = await self._kill_manager(manager, asked[SECOND_ROUND:])
            self._say("every client has its answer; waiting until every transaction is final")
            ends = await asyncio.gather(*(end(manager, transfer.gid) for transfer in asked))
            left_open = [view.gid async for view in manager.list(states=tcc.State.open())]
        return Facts(
            transfers=asked,
            told=self._told,
            found={view.gid: Found(view.state, view.decision, view.attention) for view in ends},
            left_open=tuple(left_open),
            before=before,
            after=await self._books(),
            bank_kill=bank_kill,
            manager_kill=manager_kill,
        )

    def prove(self, facts: Facts) -> list[Check]:
        """What must hold."""
        return prove(facts)

    async def _kill_bank(self, manager: tcc.Manager, transfer: Transfer, others: Sequence[Transfer]) -> BankKill:
        """In an interactive transaction the client itself stands between the Tries and the decision to confirm."""
        bank = self._banks[transfer.source]
        async with asyncio.TaskGroup() as group:
            try:
                async with manager.transaction("transfer", gid=transfer.gid) as tx:
                    await AccountsStub(tx.channel.participant(transfer.source)).TryDebit(transfer.debit)
                    await AccountsStub(tx.channel.participant(transfer.target)).TryCredit(transfer.credit)
                    exit_code = await bank.server.kill()
                    fence = await bank.fence.state(transfer.gid)
                    self._say(
                        f"{transfer.gid}, interactive: both Tries answered, nothing decided: SIGKILL to {bank.name}"
                    )
                    group.create_task(self._carry_out(manager, others))
            except tcc.TransactionCancelled as cancelled:
                self._hear(transfer, told_of(cancelled))
            else:
                self._hear(transfer, Told(tcc.Decision.CONFIRM))
            view = await manager.get(transfer.gid)
            [branch] = [branch for branch in view.branches if branch.participant == bank.name]
            self._say(
                f"{transfer.gid} is {view.state}, though {bank.name} is dead. "
                f"{len(others)} more transfers; {bank.name} starts again"
            )
            await bank.server.start()
        settled = branch.settled_at is not None
        return BankKill(transfer.gid, bank.name, exit_code, fence, view.decision, settled)

    async def _kill_manager(self, manager: tcc.Manager, asked: Sequence[Transfer]) -> ManagerKill:
        """A paused bank answers no Try: so transfers are sure to be under way when the manager dies."""
        paused = self._banks[BANKS[1]].server
        async with asyncio.TaskGroup() as group:
            paused.pause()
            group.create_task(self._carry_out(manager, asked))
            open_gids = await self._undecided(manager, asked)
            exit_code = await self.manager.kill()
            answered = tuple(gid for gid in open_gids if gid in self._told)
            paused.resume()
            self._say(
                f"{len(asked)} transfers, {paused.name} paused so that {len(open_gids)} are sure to be undecided: "
                "SIGKILL to the manager"
            )
            self._say(
                f"{paused.name} goes on, the manager starts again on the same log and port; the clients just wait"
            )
            await self.manager.start()
        return ManagerKill(open_gids, answered, exit_code)

    async def _undecided(self, manager: tcc.Manager, asked: Sequence[Transfer]) -> tuple[str, ...]:
        """The transfers that no bank refuses and whose clients wait, once the manager has them all, undecided."""
        while True:
            waiting = {one.gid for one in asked if not one.refused_with and one.gid not in self._told}
            undecided = {view.gid async for view in manager.list(states=[tcc.State.TRYING])}
            if undecided >= waiting:
                return tuple(sorted(waiting))
            await asyncio.sleep(POLL)

    async def _carry_out(self, manager: tcc.Manager, asked: Sequence[Transfer]) -> None:
        async def one(transfer: Transfer) -> None:
            self._hear(transfer, await carry_out(manager, transfer))

        await asyncio.gather(*map(one, asked))

    def _hear(self, transfer: Transfer, told: Told) -> None:
        self._told[transfer.gid] = told
        self._answered(told)

    async def _books(self) -> dict[str, Books]:
        return {name: await bank.books() for name, bank in self._banks.items()}


async def end(manager: tcc.Manager, gid: str) -> tcc.TransactionView:
    """A transaction's last state, waited for."""
    async for view in manager.watch(gid):
        if view.state.is_final:
            return view
    return await manager.get(gid)
