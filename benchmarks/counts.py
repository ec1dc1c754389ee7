"""What a transaction costs beside time: RPCs, rows, AMQP messages and Redis calls, each counted where it happens.

Nothing here is reckoned from how the toolkit is meant to work. RPCs and SQLite's rows are counted in the processes
(`benchmarks.counted`), the rest is what the servers say that they did. What nobody counts is None.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redis import Redis as RedisClient
from sqlalchemy.engine import make_url

from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis

RPCS, ROWS = 0, 1
"""Where the counts stand in a shared file."""

_BYTES = 16
_IDLE_FLUSH = 10.5
"""Seconds after which an idle PostgreSQL connection has surely reported its statistics; it does so after 10."""

_RECEIVED = """case rabbit_global_counters:overview() of
  #{[{protocol, amqp091}] := #{messages_received_total := N}} -> N end."""
_WRITES = """SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0) FROM pg_stat_user_tables
WHERE relname IN ('tcc_transaction', 'tcc_fence')"""


def shared(file: str | Path) -> memoryview[int]:
    """The counts in a file, made unless it is there; what one process adds, the other sees."""
    with Path(file).open("a+b") as opened:
        opened.truncate(_BYTES)
        return memoryview(mmap.mmap(opened.fileno(), _BYTES)).cast("Q")


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts since the start; the difference of two is what happened in between."""

    rpcs: int
    row_writes: int
    amqp_messages: int | None
    redis_calls: int | None


@dataclass(frozen=True, slots=True)
class Counters:
    """Reads all counts of an installation.

    Attributes:
        processes: the counts of its processes, the client's too.
        rabbitmq: messages that were published to it, commands and outcomes.
        redis: scripts that were called in it; those of one pipeline count each.
        postgres: the server, and the URLs of the databases of log and fences; empty where they are SQLite files.
    """

    processes: Sequence[memoryview[int]]
    rabbitmq: RabbitMQ | None = None
    redis: Redis | None = None
    postgres: tuple[Postgres, Sequence[str]] | None = None

    async def read(self) -> Counts:
        """To be called when nothing is under way; takes 10 s with PostgreSQL, whose connections report late."""
        if self.postgres is not None:
            await asyncio.sleep(_IDLE_FLUSH)
        return await asyncio.to_thread(self._read)

    def _read(self) -> Counts:
        return Counts(
            rpcs=sum(process[RPCS] for process in self.processes),
            row_writes=sum(process[ROWS] for process in self.processes) if self.postgres is None else self._tuples(),
            amqp_messages=None if self.rabbitmq is None else int(self.rabbitmq.control("eval", _RECEIVED)),
            redis_calls=None if self.redis is None else _scripts(self.redis.url),
        )

    def _tuples(self) -> int:
        assert self.postgres is not None
        server, urls = self.postgres
        return sum(int(server.sql(make_url(url).database or "", _WRITES)) for url in urls)


def _scripts(url: str) -> int:
    with RedisClient.from_url(url) as client:
        commands: dict[str, dict[str, int]] = client.info("commandstats")
    return sum(figures["calls"] for name, figures in commands.items() if name.startswith("cmdstat_eval"))
