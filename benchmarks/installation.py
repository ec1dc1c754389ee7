"""A workload's installation: manager and participants, each a counted process, on the run's servers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc.aio

import tcc
from benchmarks.counts import Counters, Tally
from benchmarks.processes import Process
from benchmarks.servers import Servers
from benchmarks.transactions import SAMPLED, account
from benchmarks.workloads import Participant, Store, Workload
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub

_OPEN = (tcc.State.TRYING, tcc.State.CONFIRMING, tcc.State.CANCELLING)
_BALANCE = 10**12


class MoneyLost(Exception):
    """The banks do not hold what they were opened with, or hold something reserved with nothing under way."""


@dataclass(frozen=True, slots=True)
class Installation:
    """One that runs.

    Attributes:
        participants: their processes, by name.
        client_counts: the file that the client is to count in.
        otlp: where spans go.
    """

    workload: Workload
    manager: Process
    participants: dict[str, Process]
    servers: Servers
    counters: Counters
    client_counts: Path
    otlp: str

    @property
    def target(self) -> str:
        """The manager's address."""
        return f"127.0.0.1:{self.manager.port}"

    async def settled(self, since: datetime) -> None:
        """Wait until every transaction begun since has ended: clients were answered before that.

        Asked state by state and from a time on, the log answers by its index: to look is not to cost what is measured.
        """
        async with tcc.Manager(self.target) as manager, asyncio.timeout(120):
            for state in _OPEN:
                async for tx in manager.list(states=(state,), name=self.workload.asked.name, begun_from=since):
                    await manager.wait(tx.gid)

    async def audit(self) -> None:
        """With all transactions ended, look for money. Raises MoneyLost."""
        if not self.workload.bank:
            return
        opened = _BALANCE * self.workload.asked.accounts * len(self.participants)
        available = reserved = 0
        for process in self.participants.values():
            async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") as channel:
                totals = await AccountsStub(channel).GetTotals(pb.GetTotalsRequest())
            available += totals.available
            reserved += totals.reserved
        if (available, reserved) != (opened, 0):
            raise MoneyLost(f"{opened} cents were there; {available} are available and {reserved} reserved")

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time so far: of the manager, each participant, each server."""
        participants = {name: process.cpu_seconds() for name, process in self.participants.items()}
        return {
            "manager": self.manager.cpu_seconds(),
            **participants,
            **self.servers.cpu_seconds(self.workload),
        }


@asynccontextmanager
async def installed(
    workload: Workload,
    servers: Servers,
    folder: Path,
    *,
    patient: bool = True,
    log: Path | None = None,
    settings: Sequence[str] = (),
) -> AsyncIterator[Installation]:
    """Start all that a workload needs, and stop it, except the servers.

    Args:
        folder: its own.
        patient: see `Counters`.
        log: a file of the embedded log that is there already; None: a new one.
        settings: further lines of the manager's configuration.
    """
    async with AsyncExitStack() as running:
        await servers.need(workload)
        rabbitmq, redis, postgres = servers.of(workload)

        async def start(counts: Path | None, module: str, *arguments: str) -> Process:
            command = (
                (module, *arguments) if counts is None else ("benchmarks.counted", str(counts), module, *arguments)
            )
            process = await Process.start(*command)
            running.push_async_callback(process.stop)
            return process

        sink = await start(None, "benchmarks.sink")
        otlp = f"http://127.0.0.1:{sink.port}"
        counted = ("client", "manager", *(one.name for one in workload.participants))
        files = {name: folder / f"{name}.counts" for name in counted}
        shared = ("--rabbitmq", rabbitmq.url, "--redis", redis.url) if rabbitmq and redis else ()
        databases: list[str] = []

        def database(name: str, store: Store) -> str:
            if store is Store.POSTGRES and postgres is not None:
                databases.append(postgres.database())
                return databases[-1]
            return str(folder / f"{name}.db")

        async def start_participant(one: Participant) -> Process:
            options = ["--name", one.name, "--otlp", otlp, *(() if one.away else shared)]
            if one.fence is not Store.MEMORY:
                options += ["--database", await asyncio.to_thread(database, one.name, one.fence)]
            if one.bank:
                process = await start(files[one.name], "services.accounts", "--listen", "127.0.0.1:0", *options)
                await _open_accounts(process.port, workload.asked.accounts)
                return process
            return await start(files[one.name], "benchmarks.noop", "--wait-ms", str(one.wait_ms), *options)

        started = await asyncio.gather(*map(start_participant, workload.participants))
        participants = {one.name: process for one, process in zip(workload.participants, started, strict=True)}
        log_url = f"sqlite:///{log}" if log else await asyncio.to_thread(database, "log", workload.log)
        config = folder / "tcc.toml"
        config.write_text(
            configuration(
                log_url if "://" in log_url else f"sqlite:///{log_url}",
                {name: process.port for name, process in participants.items()},
                rabbitmq.url if rabbitmq else None,
                otlp,
                *settings,
            ),
            encoding="utf-8",
        )
        if workload.log is Store.POSTGRES:  # the embedded log makes its schema itself
            await migrate(config)
        manager = await start(files["manager"], "tcc", "server", "--json", "--config", str(config))
        counters = Counters(
            {name: Tally(file) for name, file in files.items()},
            rabbitmq,
            redis,
            (postgres, databases) if postgres else None,
            patient,
        )
        yield Installation(workload, manager, participants, servers, counters, files["client"], otlp)


def configuration(log: str, ports: dict[str, int], rabbitmq: str | None, otlp: str, *more: str) -> str:
    """The manager's, as TOML: all defaults but where things are, and how much is traced."""
    lines = ['listen = "127.0.0.1:0"', f'log = "{log}"', 'log_level = "warning"', *more]
    lines += [] if rabbitmq is None else ['courier = "rabbitmq"', f'rabbitmq.url = "{rabbitmq}"']
    lines += ["[tracing]", f'otlp = "{otlp}"', f"sample = {SAMPLED}"]
    lines += ["[participants]", *(f'{name}.endpoint = "127.0.0.1:{port}"' for name, port in ports.items())]
    return "\n".join(lines) + "\n"


async def migrate(config: Path) -> None:
    """Make the log's schema."""
    migrating = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tcc", "migrate", "--config", str(config), stdout=asyncio.subprocess.DEVNULL
    )
    if await migrating.wait():
        raise RuntimeError("the log's schema could not be made")


async def _open_accounts(port: int, accounts: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        bank = AccountsStub(channel)
        for number in range(accounts):
            await bank.OpenAccount(pb.OpenAccountRequest(account=account(number), available=_BALANCE))
