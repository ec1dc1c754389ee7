"""What is measured: two participants and a manager, each a process, in the kinds that `WORKLOADS` names.

- *coordination*: participants that do nothing, fences in memory, the log in SQLite: the embedded default's own cost.
- *bank*: real balances and fences, in two SQLite databases.
- *full-sqlite*: the same banks, with commands through RabbitMQ and locks in Redis; log and fences in SQLite.
- *full-postgres*: the same, with log and fences in PostgreSQL.

SQLite commits with synchronous=FULL and PostgreSQL with fsync, as both do by default. RabbitMQ, Redis and PostgreSQL
are private ones on this machine, and share its processors with all the rest.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

import tcc
from benchmarks.counts import Counters, shared
from benchmarks.load import ACCOUNTS
from benchmarks.processes import Process
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tests.servers.postgres import Postgres
from tests.servers.process import program
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis

EMBEDDED = ("coordination", "bank")
FULL = ("full-sqlite", "full-postgres")
WORKLOADS = (*EMBEDDED, *FULL)

_OPEN = (tcc.State.TRYING, tcc.State.CONFIRMING, tcc.State.CANCELLING)
_BANKS = ("bank-a", "bank-b")


@dataclass(frozen=True, slots=True)
class Installation:
    """One that runs.

    Attributes:
        client_counts: the file that the client is to count in.
    """

    manager: Process
    participants: list[Process]
    names: tuple[str, str]
    counters: Counters
    client_counts: Path

    async def settled(self) -> None:
        """Wait until every transaction has ended: clients were answered before that."""
        async with tcc.Manager(f"127.0.0.1:{self.manager.port}") as manager, asyncio.timeout(120):
            async for tx in manager.list(states=_OPEN):
                await manager.wait(tx.gid)

    def cpu_seconds(self) -> tuple[float, float]:
        """The manager's, and all participants', so far."""
        return self.manager.cpu_seconds(), sum(process.cpu_seconds() for process in self.participants)


def check_servers() -> None:
    """Raise ServerMissing, which says what to install, unless all servers are there."""
    program("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")
    program("redis-server", "redis-server")
    program("postgresql", *map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres")), "postgres")


@asynccontextmanager
async def installed(workload: str, folder: Path) -> AsyncIterator[Installation]:
    """Start all that a workload needs, and stop it.

    Args:
        workload: one of `WORKLOADS`.
        folder: its own, which every user may enter.
    """
    async with AsyncExitStack() as running:
        rabbitmq = redis = postgres = None
        if workload in FULL:
            rabbitmq, redis = RabbitMQ(folder / "rabbitmq"), Redis(folder / "redis")
            running.callback(rabbitmq.stop)
            running.callback(redis.kill)
            await asyncio.to_thread(rabbitmq.start)
            await asyncio.to_thread(redis.start)
        if workload == "full-postgres":
            postgres = Postgres(folder / "postgres")
            running.callback(postgres.kill)
            await asyncio.to_thread(postgres.start)
        urls = {name: postgres.database() for name in ("log", *_BANKS)} if postgres else {}
        files = {name: folder / f"{name}.counts" for name in ("client", "manager", *_BANKS)}
        counters = Counters(
            [shared(file) for file in files.values()],
            rabbitmq,
            redis,
            (postgres, list(urls.values())) if postgres else None,
        )

        async def start(counts: Path, module: str, *arguments: str) -> Process:
            process = await Process.start("benchmarks.counted", str(counts), module, *arguments)
            running.push_async_callback(process.stop)
            return process

        names = ("noop", "noop") if workload == "coordination" else _BANKS
        if workload == "coordination":
            participants = [await start(files["bank-a"], "benchmarks.noop")]
        else:
            more = ["--rabbitmq", rabbitmq.url, "--redis", redis.url] if rabbitmq and redis else []
            participants = []
            for name in _BANKS:
                database = urls.get(name) or str(folder / f"{name}.db")
                words = ("--listen", "127.0.0.1:0", "--database", database, "--name", name, *more)
                participants.append(await start(files[name], "services.accounts", *words))
                await _open_accounts(participants[-1].port)
        config = folder / "tcc.toml"
        config.write_text(
            _configuration(
                urls.get("log", f"sqlite:///{folder}/log.db"),
                {name: process.port for name, process in zip(names, participants, strict=False)},
                rabbitmq.url if rabbitmq else None,
            ),
            encoding="utf-8",
        )
        await _migrate(config)
        manager = await start(files["manager"], "tcc", "server", "--json", "--config", str(config))
        yield Installation(manager, participants, names, counters, files["client"])


def _configuration(log: str, ports: dict[str, int], rabbitmq: str | None) -> str:
    lines = ['listen = "127.0.0.1:0"', f'log = "{log}"', 'log_level = "warning"']
    lines += [] if rabbitmq is None else ['courier = "rabbitmq"', f'rabbitmq.url = "{rabbitmq}"']
    lines += ["[participants]", *(f'{name}.endpoint = "127.0.0.1:{port}"' for name, port in ports.items())]
    return "\n".join(lines) + "\n"


async def _migrate(config: Path) -> None:
    migrating = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tcc", "migrate", "--config", str(config), stdout=asyncio.subprocess.DEVNULL
    )
    if await migrating.wait():
        raise RuntimeError("the log's schema could not be made")


async def _open_accounts(port: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        bank = AccountsStub(channel)
        for account in ACCOUNTS:
            await bank.OpenAccount(pb.OpenAccountRequest(account=account, available=10**12))
