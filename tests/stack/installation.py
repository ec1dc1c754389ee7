"""The installation of the stack: who runs where, under which names, on which servers.

Two kinds of banks: those that are programs, to be killed; and those in the test's own process, to be told at each call
what becomes of it (`tests.spine.traffic`). Both kinds are configured at both managers from the start.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import tcc
from services.accounts._database import ACCOUNTS, METADATA
from services.accounts._service import Accounts
from services.accounts.v1.accounts_pb2_grpc import add_AccountsServicer_to_server
from tcc_server.log.migrate import migrate_postgres
from tests.servers.postgres import Postgres
from tests.servers.process import free_port
from tests.servers.running import RunningPostgres
from tests.spine.traffic import Traffic
from tests.stack.programs import Program

LEASE = 2
"""Seconds after which a manager that fell silent counts as dead."""

_RETRY = {
    "answer_timeout": 1.0,
    "answer_timeout_max": 2.0,
    "backoff_first": 0.02,
    "backoff_max": 0.5,
    "try_backoff_max": 0.2,
}


@dataclass(frozen=True)
class Servers:
    """Urls of the servers, and databases in one of them.

    Attributes:
        log: the managers' database.
        databases: the banks', by the bank's name without its ending.
    """

    rabbitmq: str
    redis: str
    log: str
    databases: Mapping[str, str]

    @classmethod
    async def prepared(cls, postgres: Postgres | RunningPostgres, rabbitmq: str, redis: str) -> Servers:
        """With databases of its own, and the log's schema in one of them."""
        names = ("log", "a", "b")
        made = await asyncio.gather(*(asyncio.to_thread(postgres.database) for _ in names))
        log, *banks = made
        await migrate_postgres(log)
        return cls(rabbitmq, redis, log, dict(zip(names[1:], banks, strict=True)))


@dataclass
class NearBank:
    """A bank in the test's own process.

    Attributes:
        traffic: what happens to Tries on their way in; commands come through RabbitMQ, past it.
    """

    name: str
    port: int
    traffic: Traffic = field(default_factory=Traffic)
    server: tcc.ParticipantServer | None = None
    fence: tcc.SqlFence | None = None
    lock: tcc.RedisLock | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def messages(self) -> int:
        """Lists of commands that came to it."""
        assert self.server is not None
        return sum(consumer.messages for consumer in self.server._consumers)

    @property
    def bypasses(self) -> int:
        """How often it went on without a lock."""
        assert self.lock is not None
        return self.lock.bypasses

    async def start(self, database: str | AsyncEngine, redis: str, rabbitmq: str | None) -> None:
        """Serve; without RabbitMQ, by gRPC alone."""
        self.fence, self.lock = tcc.SqlFence(database), tcc.RedisLock(redis)
        self.server = tcc.ParticipantServer(
            self.address,
            fence=self.fence,
            name=self.name,
            lock=self.lock,
            rabbitmq=rabbitmq,
            interceptors=[self.traffic],
            handler_timeout=5.0,
        )
        add_AccountsServicer_to_server(Accounts(self.fence), self.server)
        await self.server.start()

    async def stop(self) -> None:
        """Be gone."""
        if self.server is not None:
            await self.server.stop(None)
        for part in (self.fence, self.lock):
            if part is not None:
                await part.close()
        self.server = self.fence = self.lock = None


class Stack:
    """Two managers; the banks a and b as programs, a in two instances; room for the banks near-a and near-b.

    Args:
        servers: that all of them use.
        folder: for configuration and what the programs write.
        log_urls: where each manager finds the log, if not all at the same place.
    """

    def __init__(self, servers: Servers, folder: Path, log_urls: Sequence[str] = ()) -> None:
        self.servers = servers
        ending = secrets.token_hex(3)  # so that no other test's messages are in the queues
        self.far = (f"a-{ending}", f"b-{ending}")
        self.near = (f"near-a-{ending}", f"near-b-{ending}")
        self.near_ports = (free_port(), free_port())
        self._folder = folder
        banks = [self._bank(folder, self.far[0]), self._bank(folder, self.far[1])]
        # The Tries go to the first instance; the helper takes its share of the commands.
        self.bank_a, self.bank_b = banks
        self.helper = self._bank(folder, self.far[0], "helper")
        urls = log_urls or (servers.log, servers.log)
        self.managers = tuple(self._manager(folder, str(number), url) for number, url in enumerate(urls))
        self.accounts: dict[str, str] = {}

    @property
    def programs(self) -> tuple[Program, ...]:
        """All of them."""
        return (*self.managers, self.bank_a, self.bank_b, self.helper)

    @property
    def log(self) -> str:
        """The log's database."""
        return self.servers.log

    def database(self, bank: str) -> str:
        """The database of a bank."""
        return self.servers.databases[bank.removeprefix("near-")[0]]

    async def start(self) -> None:
        """Start all programs."""
        for url in self.servers.databases.values():
            fence = tcc.SqlFence(url)
            await fence.create_tables()
            async with fence.begin() as connection:
                await connection.run_sync(METADATA.create_all)
            await fence.close()
        await asyncio.gather(*(program.started() for program in self.programs))

    def stop(self) -> None:
        """SIGKILL all of them, and wait until they are gone."""
        for program in self.programs:
            with suppress(ProcessLookupError):
                program.resume()
            program.stop()

    def client(self, *order: int, policy: str = "pick_first") -> tcc.Manager:
        """A client of these managers: of the first that it reaches, if nothing else is said."""
        return self.client_of(*(self.managers[number].address for number in order), policy=policy)

    def client_of(self, *addresses: str, policy: str = "pick_first") -> tcc.Manager:
        """As `client`, of managers anywhere."""
        # With connections of its own: gRPC would go on waiting where another channel of this process failed before.
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.lb_policy_name", policy))
        return tcc.Manager(f"ipv4:{','.join(addresses)}", options=options, connect_timeout=30.0)

    async def open(self, *accounts: str, available: int) -> None:
        """Open accounts of these names at both banks."""
        for url in self.servers.databases.values():
            engine = create_async_engine(url)
            rows = [
                {"account": one, "opened_with": available, "available": available, "reserved": 0} for one in accounts
            ]
            with suppress(IntegrityError):
                async with engine.begin() as connection:
                    await connection.execute(ACCOUNTS.insert(), rows)
            await engine.dispose()

    def manager(self, name: str, log: str) -> Program:
        """One more manager, not started yet; to be stopped by whoever asked for it."""
        return self._manager(self._folder, name, log)

    def configuration(self, port: int, log: str) -> str:
        """A manager's file."""
        near = zip(self.near, self.near_ports, strict=True)
        far = ((self.far[0], self.bank_a.port), (self.far[1], self.bank_b.port))
        settings = {
            "listen": f"127.0.0.1:{port}",
            "log": log,
            "lease": LEASE,
            "courier": "rabbitmq",
            "rabbitmq.url": self.servers.rabbitmq,
            **{f"participants.{name}.endpoint": f"127.0.0.1:{at}" for name, at in (*near, *far)},
            **{f"retry.{key}": value for key, value in _RETRY.items()},
        }
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())

    def _manager(self, folder: Path, name: str, log: str) -> Program:
        port = free_port()
        file = folder / f"manager-{name}.toml"
        file.write_text(self.configuration(port, log))
        return Program(("tcc", "server", "--config", str(file)), port, folder / f"manager-{name}.log")

    def _bank(self, folder: Path, name: str, instance: str = "bank") -> Program:
        port = free_port()
        words = ("--listen", f"127.0.0.1:{port}", "--name", name, "--database", self.servers.databases[name[0]])
        servers = ("--rabbitmq", self.servers.rabbitmq, "--redis", self.servers.redis)
        return Program(("tests.stack.bank", *words, *servers), port, folder / f"{instance}-{name}.log")
