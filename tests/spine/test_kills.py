"""SIGKILL of the manager at every moment, and of participants: everything ends, nothing is lost, made or done twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tests.spine.installation import OPENING, Bank, Installation, config, running, transfer, two_banks
from tests.spine.processes import Child, Nursery, free_port
from tests.spine.traffic import Serve, never_answers

MOMENTS = {
    "before the begin row": "append:1:before",
    "begun, no Try sent": "append:1:after",
    "a Try is about to leave": "call:2:before",
    "a reply read, not taken in": "call:1:after",
    "all replies read, the last not taken in": "call:2:after",
    "all reserved, undecided": "append:2:before",
    "inside the decision's commit: written, not known": "append:2:after",
    "decided, nothing sent": "send:1:before",
    "sent, no outcome": "send:1:after",
    "outcome read, not taken in": "outcome:1:before",
    "between branches": "outcome:1:after",
    "the last outcome read, not taken in": "outcome:2:before",
    "all done, not final": "append:3:before",
    "final, client not told": "append:3:after",
}


@dataclass
class Manager:
    """A manager that dies and is started again, as a supervisor would."""

    banks: tuple[Bank, Bank]
    folder: Path
    nursery: Nursery
    port: int
    child: Child | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, failpoint: str = "none") -> Child:
        settings = config(self.folder, *self.banks, listen=self.address)
        self.child = await self.nursery.manager(settings, self.folder, failpoint)
        return self.child


@pytest.fixture
async def killable(banks: tuple[Bank, Bank], tmp_path: Path, nursery: Nursery) -> AsyncIterator[Manager]:
    manager = Manager(banks, tmp_path, nursery, free_port())
    yield manager
    if manager.child is not None:
        manager.child.discard()


@asynccontextmanager
async def client_of(manager: Manager) -> AsyncIterator[tuple[tcc.Manager, Installation]]:
    async with tcc.Manager(manager.address) as client:
        yield client, Installation(*manager.banks, client, manager.address)


@pytest.mark.parametrize("failpoint", MOMENTS.values(), ids=MOMENTS)
async def test_a_transfer_outlives_sigkill_of_the_manager(killable: Manager, failpoint: str) -> None:
    first = await killable.start(failpoint)
    async with client_of(killable) as (client, installation):
        calls = transfer(70)
        answer = asyncio.create_task(client.execute(*calls, gid="t-1", wait=tcc.COMPLETED))
        await first.gone()
        await killable.start()
        done = await answer
        assert done.state is tcc.State.CONFIRMED  # nothing stood in its way but a crash
        assert done.replies[0].available == OPENING - 70
        again = await client.execute(*calls, gid="t-1", wait=tcc.COMPLETED)
        assert (again.state, again.replies) == (done.state, done.replies)
        assert [bank.ann for bank in killable.banks] == [(OPENING - 70, 0), (OPENING + 70, 0)]
        with pytest.raises(tcc.GidReused, match="another request"):
            await client.execute(*transfer(71), gid="t-1")
        await installation.check()


@pytest.mark.parametrize(
    "failpoint", ["append:1:after", "call:2:after", "append:2:before", "append:2:after", "append:3:before"]
)
async def test_a_refused_transfer_stays_refused_through_sigkill_of_the_manager(
    killable: Manager, failpoint: str
) -> None:
    killable.banks[1].traffic.next("TryCredit", never_answers)  # so that a Cancel is owed
    first = await killable.start(failpoint)
    async with client_of(killable) as (client, installation):
        calls = transfer(OPENING + 1)
        answer = asyncio.create_task(client.execute(*calls, gid="t-1", timeout=15))
        if failpoint == "call:2:after":  # only one is ever answered
            first.send(signal.SIGKILL)
        await first.gone()
        await killable.start()
        with pytest.raises(tcc.TransactionCancelled, match=f"less than {OPENING + 1} cents"):
            await answer
        with pytest.raises(tcc.TransactionCancelled, match=f"less than {OPENING + 1} cents"):
            await client.execute(*calls, gid="t-1")
        await installation.check()


@pytest.mark.parametrize(
    "failpoint",
    [
        "append:1:after",
        "append:2:before",
        "append:2:after",
        "call:1:after",
        "append:3:after",
        "append:4:before",
        "append:4:after",
        "append:5:before",
    ],
)
async def test_an_interactive_transfer_outlives_sigkill_of_the_manager(killable: Manager, failpoint: str) -> None:
    first = await killable.start(failpoint)
    async with client_of(killable) as (client, installation):

        async def body() -> None:
            async with client.transaction(gid="t-1", wait=tcc.COMPLETED) as tx:
                await AccountsStub(tx.channel.participant("bank-a")).TryDebit(pb.DebitRequest(account="ann", amount=70))
                await AccountsStub(tx.channel.participant("bank-b")).TryCredit(
                    pb.CreditRequest(account="ann", amount=70)
                )

        answer = asyncio.create_task(body())
        await first.gone()
        await killable.start()
        await answer
        assert (await installation.ended("t-1")).state is tcc.State.CONFIRMED
        assert [bank.ann for bank in killable.banks] == [(OPENING - 70, 0), (OPENING + 70, 0)]
        await installation.check()


def dies_before(child: Child) -> Callable[[Serve, object], Awaitable[bytes]]:
    async def script(serve: Serve, context: object) -> bytes:
        await child.kill()
        return await serve()  # what was sent arrives, whoever sent it

    return script


def dies_after(child: Child) -> Callable[[Serve, object], Awaitable[bytes]]:
    async def script(serve: Serve, context: object) -> bytes:
        reply = await serve()
        await child.kill()
        return reply

    return script


@pytest.mark.parametrize("when", [dies_before, dies_after], ids=["before the handler", "after its commit"])
@pytest.mark.parametrize("method", ["TryDebit", "ConfirmDebit"])
async def test_the_manager_is_killed_while_a_participant_works_for_it(
    killable: Manager, method: str, when: Callable[[Child], Callable[[Serve, object], Awaitable[bytes]]]
) -> None:
    first = await killable.start()
    killable.banks[0].traffic.next(method, when(first))
    async with client_of(killable) as (client, installation):
        answer = asyncio.create_task(client.execute(*transfer(70), gid="t-1", wait=tcc.COMPLETED))
        await first.gone()
        await killable.start()
        assert (await answer).state is tcc.State.CONFIRMED
        assert [bank.ann for bank in killable.banks] == [(OPENING - 70, 0), (OPENING + 70, 0)]
        await installation.check()


async def test_many_transfers_outlive_one_sigkill_after_the_other(killable: Manager) -> None:
    """The load goes on, the manager dies five times at no moment in particular; no client does anything about it."""
    await killable.start()
    async with client_of(killable) as (client, installation):
        confirmed: list[int] = []
        cancelled = 0
        flowing = asyncio.Event()

        async def transfers(worker: int) -> None:
            nonlocal cancelled
            for number in range(12):
                amount = OPENING * 2 if number % 5 == 4 else 1
                try:
                    await client.execute(*transfer(amount), gid=f"t-{worker}-{number}")
                    confirmed.append(amount)
                except tcc.TransactionCancelled:
                    cancelled += amount > 1
                flowing.set()

        async with asyncio.TaskGroup() as group:
            for worker in range(8):
                group.create_task(transfers(worker))
            for _ in range(5):
                flowing.clear()
                await flowing.wait()
                assert killable.child is not None
                await killable.child.kill()
                await killable.start()
        await installation.check()
        assert cancelled == 8 * 2
        assert len(confirmed) == 8 * 10
        assert [bank.ann for bank in killable.banks] == [(OPENING - 80, 0), (OPENING + 80, 0)]


async def test_a_participant_killed_before_its_confirm_comes_back_and_all_is_confirmed_with_no_client_action(
    tmp_path: Path, nursery: Nursery
) -> None:
    async with _with_a_killable_bank(tmp_path, nursery) as (banks, child, client):

        async def when_decided(serve: Serve, context: object) -> bytes:
            await child.kill()
            return await serve()

        banks[1].traffic.next("ConfirmCredit", when_decided)
        await client.execute(*transfer(70), gid="t-1")
        await child.gone()
        await nursery.bank("bank-a", banks[0].database, banks[0].port)
        installation = Installation(*banks, client, "")
        assert (await installation.ended("t-1")).state is tcc.State.CONFIRMED
        assert [bank.ann for bank in banks] == [(OPENING - 70, 0), (OPENING + 70, 0)]
        await installation.check()


async def test_a_participant_killed_while_it_reserves_leaves_nothing_reserved(tmp_path: Path, nursery: Nursery) -> None:
    async with _with_a_killable_bank(tmp_path, nursery) as (banks, child, client):
        banks[1].traffic.next("TryCredit", dies_before(child))
        with suppress(tcc.TransactionCancelled):  # unless it had answered before it died
            await client.execute(*transfer(70), gid="t-1", timeout=0.5)
        await nursery.bank("bank-a", banks[0].database, banks[0].port)
        installation = Installation(*banks, client, "")
        await installation.ended("t-1")
        await installation.check()


async def test_a_participant_that_is_paused_delays_only_its_own_and_goes_on_when_it_wakes(
    tmp_path: Path, nursery: Nursery
) -> None:
    async with _with_a_killable_bank(tmp_path, nursery) as (banks, child, client):
        child.send(signal.SIGSTOP)
        calls = transfer(70)
        paused = asyncio.create_task(client.execute(*calls, gid="t-1"))
        await banks[1].traffic.until("TryCredit")
        other = AccountsStub(tcc.plan.participant("bank-b")).TryCredit(pb.CreditRequest(account="ann", amount=5))
        assert (await client.execute(other, wait=tcc.COMPLETED)).state is tcc.State.CONFIRMED
        assert not paused.done()
        child.send(signal.SIGCONT)
        await paused
        assert (await Installation(*banks, client, "").ended("t-1")).state is tcc.State.CONFIRMED
        assert [bank.ann for bank in banks] == [(OPENING - 70, 0), (OPENING + 75, 0)]


@asynccontextmanager
async def _with_a_killable_bank(
    folder: Path, nursery: Nursery
) -> AsyncIterator[tuple[tuple[Bank, Bank], Child, tcc.Manager]]:
    """bank-a is a process of its own, bank-b and the manager live in this one."""
    async with two_banks(folder) as banks:
        await banks[0].stop()
        child = await nursery.bank("bank-a", banks[0].database, banks[0].port)
        async with running(config(folder, *banks)) as (_, client):
            yield banks, child, client
