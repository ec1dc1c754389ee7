"""The whole of it over RabbitMQ: a manager, banks as processes of their own, and faults in the middle of transfers."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc.aio

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tcc_server.app import ManagerApp
from tcc_server.config import Config, Participant, RabbitMQ as RabbitMQSettings, Retry
from tests.servers.rabbitmq import RabbitMQ
from tests.spine.books import read_books, violations

ROOT = Path(__file__).parents[2]
OPENING = 10_000
RETRY = Retry(answer_timeout=1.0, answer_timeout_max=2.0, backoff_first=0.05, backoff_max=0.5)


class Bank:
    """An instance of a bank, as a process."""

    def __init__(self, process: Process, address: str) -> None:
        self.process, self.address = process, address


@asynccontextmanager
async def bank(name: str, database: Path, url: str) -> AsyncIterator[Bank]:
    """Starts an instance; ends it."""
    command = [sys.executable, "-m", "services.accounts", "--listen", "127.0.0.1:0", "--name", name]
    command += ["--database", str(database), "--rabbitmq", url]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert line, (await process.stderr.read()).decode()
        yield Bank(process, line.split()[-1])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def open_account(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await AccountsStub(channel).OpenAccount(pb.OpenAccountRequest(account="ann", available=OPENING))


async def test_transfers_end_right_though_an_instance_is_killed_and_the_broker_restarted(
    tmp_path: Path, broker: RabbitMQ, name: str
) -> None:
    names = (name, f"{name}-too")
    databases = [tmp_path / "a.db", tmp_path / "b.db"]
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(bank(names[0], databases[0], broker.url))
        # A second instance on the same database and queue; the Tries go to the first.
        helper = await stack.enter_async_context(bank(names[0], databases[0], broker.url))
        other = await stack.enter_async_context(bank(names[1], databases[1], broker.url))
        for address in (one.address, other.address):
            await open_account(address)
        app = ManagerApp(
            Config(
                listen="127.0.0.1:0",
                log=f"sqlite:///{tmp_path / 'tcc.db'}",
                courier="rabbitmq",
                rabbitmq=RabbitMQSettings(url=broker.url),
                retry=RETRY,
                participants={
                    names[0]: Participant(endpoint=one.address),
                    names[1]: Participant(endpoint=other.address),
                },
            )
        )
        await app.start()
        stack.push_async_callback(app.stop)
        manager = await stack.enter_async_context(tcc.Manager(app.listen))
        banks = [AccountsStub(tcc.plan.participant(each)) for each in names]

        async def transfer(number: int) -> str:
            out, back = (banks[0], banks[1]) if number % 2 else (banks[1], banks[0])
            amount = 10 * OPENING if number % 10 == 0 else 7  # some are refused
            gid = f"{name}-{number}"
            debit = out.TryDebit(pb.DebitRequest(account="ann", amount=amount))
            credit = back.TryCredit(pb.CreditRequest(account="ann", amount=amount))
            try:
                await manager.execute(credit, debit, gid=gid, name="transfer", timeout=30)
            except tcc.TransactionCancelled:
                assert number % 10 == 0
            return gid

        gids = [await transfer(number) for number in range(1, 21)]
        killing = asyncio.create_task(asyncio.to_thread(helper.process.kill))
        gids += await asyncio.gather(*(transfer(number) for number in range(21, 61)))
        await killing
        await asyncio.to_thread(broker.stop)
        try:
            gids += await asyncio.gather(*(transfer(number) for number in range(61, 101)))  # taken without a broker
        finally:
            await asyncio.to_thread(broker.start)
        gids += await asyncio.gather(*(transfer(number) for number in range(101, 121)))
        async with asyncio.timeout(40):
            transactions = await asyncio.gather(*(_end(manager, gid) for gid in gids))
        states = [transaction.state for transaction in transactions]
        assert (states.count(tcc.State.CONFIRMED), states.count(tcc.State.CANCELLED)) == (108, 12)
    assert violations([read_books(database) for database in databases], transactions, 2 * OPENING) == []


async def _end(manager: tcc.Manager, gid: str) -> tcc.TransactionView:
    async for seen in manager.watch(gid):
        last = seen
    return last
