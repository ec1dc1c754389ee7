"""RabbitMQ, Redis and PostgreSQL for one run: private ones on this machine, started once and shared by its workloads.

Their CPU time is measured as everybody's: they run on the same processors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from redis import Redis as RedisClient

from benchmarks.processes import family_cpu_seconds
from benchmarks.workloads import Workload
from tests.servers.postgres import Postgres
from tests.servers.process import program
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis


def check(workloads: list[Workload]) -> None:
    """Raise ServerMissing, which says what to install, unless the programs that these need are there."""
    if any(workload.broker for workload in workloads):
        program("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")
        program("redis-server", "redis-server")
    if any(workload.postgres for workload in workloads):
        program("postgresql", *map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres")), "postgres")


class Servers:
    """The servers of a run.

    Args:
        folder: theirs, which every user may enter.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rabbitmq: RabbitMQ | None = None
        self._redis: Redis | None = None
        self._postgres: Postgres | None = None
        self._pids: dict[str, int] = {}

    async def need(self, workload: Workload) -> None:
        """Start what a workload needs and does not run yet."""
        starting: list[Callable[[], None]] = []
        if workload.broker and self._rabbitmq is None:
            starting += [self._start_rabbitmq, self._start_redis]
        if workload.postgres and self._postgres is None:
            starting.append(self._start_postgres)
        await asyncio.gather(*(asyncio.to_thread(start) for start in starting))

    def of(self, workload: Workload) -> tuple[RabbitMQ | None, Redis | None, Postgres | None]:
        """Those that it uses; started before."""
        broker = (self._rabbitmq, self._redis) if workload.broker else (None, None)
        return *broker, self._postgres if workload.postgres else None

    def cpu_seconds(self, workload: Workload) -> dict[str, float]:
        """Their CPU time so far, of those that it uses."""
        used = {"rabbitmq": workload.broker, "redis": workload.broker, "postgres": workload.postgres}
        return {name: family_cpu_seconds(pid) for name, pid in self._pids.items() if used[name]}

    async def stop(self) -> None:
        """End them all."""
        await asyncio.gather(
            *(
                asyncio.to_thread(stop)
                for stop in (
                    self._rabbitmq.stop if self._rabbitmq else None,
                    self._redis.kill if self._redis else None,
                    self._postgres.kill if self._postgres else None,
                )
                if stop is not None
            )
        )

    def _start_rabbitmq(self) -> None:
        self._rabbitmq = RabbitMQ(self._folder / "rabbitmq")
        self._rabbitmq.start()
        self._pids["rabbitmq"] = int(self._rabbitmq.control("eval", "io:format(os:getpid() ++ [10]).").split()[0])

    def _start_redis(self) -> None:
        self._redis = Redis(self._folder / "redis")
        self._redis.start()
        with RedisClient.from_url(self._redis.url) as asked:
            self._pids["redis"] = int(asked.info("server")["process_id"])

    def _start_postgres(self) -> None:
        self._postgres = Postgres(self._folder / "postgres")
        self._postgres.start()
        pid_file = self._folder / "postgres" / "data" / "postmaster.pid"
        self._pids["postgres"] = int(pid_file.read_text(encoding="ascii").split()[0])


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[Servers]:
    """Servers, ended at the end."""
    running = Servers(folder)
    try:
        yield running
    finally:
        await running.stop()
