"""What a transaction costs beside time, each thing counted where it happens.

Nothing here is reckoned from how the toolkit is meant to work. What the processes do themselves they count in a file
that the benchmark maps too (`Tally`, filled by `benchmarks.counted`); the rest is what the servers say that they did.
What nobody counts is missing.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis as RedisClient
from sqlalchemy.engine import make_url

from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis

RPCS, MESSAGES, ROWS, COMMITS = range(4)
"""Where the counts stand in a tally."""

_FIRST_HOP, _HOPS, _NAME_BYTES = 8, 24, 48
_NUMBERS_BYTES = 8 * (_FIRST_HOP + 2 * _HOPS)
_BYTES = _NUMBERS_BYTES + _HOPS * _NAME_BYTES

_IDLE_FLUSH = 10.5
"""Seconds after which an idle PostgreSQL connection has surely reported its statistics; it does so after 10."""

_BROKER = """#{[{protocol, amqp091}] := #{messages_received_total := M}} = rabbit_global_counters:overview(),
#{ra_log_wal := #{batches := B}} = ra_counters:overview(), io:format("~b ~b~n", [M, B])."""
_WRITES = """SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0) FROM pg_stat_user_tables
WHERE relname IN ('tcc_transaction', 'tcc_fence')"""
_SYNCS = "SELECT wal_sync FROM pg_stat_wal"


class Tally:
    """The counts of one process, in a file: counting costs an addition, and reading costs the process nothing.

    A hop is a place where lists leave; it has a name, and counts of its lists and of the items in them.

    Args:
        file: made unless it is there.
    """

    def __init__(self, file: str | Path) -> None:
        with Path(file).open("a+b") as opened:
            opened.truncate(_BYTES)
            self._map = mmap.mmap(opened.fileno(), _BYTES)
        self.numbers = memoryview(self._map).cast("B")[:_NUMBERS_BYTES].cast("Q")

    def hop(self, name: str) -> int:
        """Where the counts of a hop stand: lists there, items after them. The last place is for all others."""
        wanted = name.encode()[:_NAME_BYTES]
        for at in range(_HOPS):
            if at == _HOPS - 1:
                wanted = b"others"
            start = _NUMBERS_BYTES + at * _NAME_BYTES
            found = self._map[start : start + _NAME_BYTES].rstrip(b"\0")
            if found == wanted:
                break
            if not found:
                self._map[start : start + len(wanted)] = wanted
                break
        return _FIRST_HOP + 2 * at

    def hops(self) -> dict[str, tuple[int, int]]:
        """Lists and items of each hop."""
        found = {}
        for at in range(_HOPS):
            start = _NUMBERS_BYTES + at * _NAME_BYTES
            if name := self._map[start : start + _NAME_BYTES].rstrip(b"\0").decode():
                place = _FIRST_HOP + 2 * at
                found[name] = (self.numbers[place], self.numbers[place + 1])
        return found


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts since the start; the difference of two is what happened in between.

    Attributes:
        rpcs: gRPC calls begun.
        messages: messages on gRPC streams, both ways.
        row_writes: rows of log and fences that were inserted or updated.
        fsyncs: by who made them.
        amqp_messages: published to RabbitMQ.
        redis_calls: scripts called in Redis.
        hops: lists and items, by hop.
    """

    rpcs: int
    messages: int
    row_writes: int | None
    fsyncs: Mapping[str, int]
    amqp_messages: int | None
    redis_calls: int | None
    hops: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Each:
    """`Counts` divided by transactions; list sizes are items a list."""

    rpcs: float
    messages: float
    row_writes: float | None
    fsyncs: dict[str, float]
    amqp_messages: float | None
    redis_calls: float | None
    lists: dict[str, float]


def each(before: Counts, after: Counts, transactions: int) -> Each:
    """What one transaction cost between two readings."""

    def share(now: int | None, then: int | None) -> float | None:
        return None if now is None or then is None else (now - then) / transactions

    lists = {}
    for name, (all_lists, all_items) in after.hops.items():
        lists_before, items_before = before.hops.get(name, (0, 0))
        if all_lists > lists_before:
            lists[name] = (all_items - items_before) / (all_lists - lists_before)
    return Each(
        rpcs=(after.rpcs - before.rpcs) / transactions,
        messages=(after.messages - before.messages) / transactions,
        row_writes=share(after.row_writes, before.row_writes),
        fsyncs={who: (count - before.fsyncs.get(who, 0)) / transactions for who, count in after.fsyncs.items()},
        amqp_messages=share(after.amqp_messages, before.amqp_messages),
        redis_calls=share(after.redis_calls, before.redis_calls),
        lists=lists,
    )


@dataclass(frozen=True, slots=True)
class Counters:
    """Reads all counts of an installation.

    Attributes:
        tallies: of its processes by name, the client's too.
        rabbitmq, redis: the servers, where they are used.
        postgres: the server, and the URLs of the databases of log and fences; None where they are SQLite files.
        patient: wait for PostgreSQL's figures, 10 s a reading; else they are missing.
    """

    tallies: Mapping[str, Tally]
    rabbitmq: RabbitMQ | None = None
    redis: Redis | None = None
    postgres: tuple[Postgres, Sequence[str]] | None = None
    patient: bool = True

    async def read(self) -> Counts:
        """To be called when nothing is under way."""
        if self.postgres is not None and self.patient:
            await asyncio.sleep(_IDLE_FLUSH)
        return await asyncio.to_thread(self._read)

    def _read(self) -> Counts:
        fsyncs: dict[str, int] = {}
        amqp = None
        if self.rabbitmq is not None:
            amqp, fsyncs["rabbitmq"] = map(int, self.rabbitmq.control("eval", _BROKER).split()[:2])
        rows: int | None
        if self.postgres is None:
            rows = sum(tally.numbers[ROWS] for tally in self.tallies.values())
            fsyncs["log"] = self.tallies["manager"].numbers[COMMITS]
            fsyncs["fences"] = sum(tally.numbers[COMMITS] for tally in self.tallies.values()) - fsyncs["log"]
        elif self.patient:
            server, urls = self.postgres
            rows = sum(int(server.sql(make_url(url).database or "", _WRITES)) for url in urls)
            fsyncs["postgres"] = int(server.sql("postgres", _SYNCS))
        else:
            rows = None
        return Counts(
            rpcs=sum(tally.numbers[RPCS] for tally in self.tallies.values()),
            messages=sum(tally.numbers[MESSAGES] for tally in self.tallies.values()),
            row_writes=rows,
            fsyncs=fsyncs,
            amqp_messages=amqp,
            redis_calls=None if self.redis is None else _scripts(self.redis.url),
            hops=self._hops(),
        )

    def _hops(self) -> dict[str, tuple[int, int]]:
        """Of all processes; those of one name are one hop. A group commit is a list of rows."""
        hops: dict[str, tuple[int, int]] = {}
        for process, tally in self.tallies.items():
            rows_a_commit = (tally.numbers[COMMITS], tally.numbers[ROWS])
            named = {f"rows a {'log' if process == 'manager' else 'fence'} commit": rows_a_commit, **tally.hops()}
            for name, (lists, items) in named.items():
                lists_before, items_before = hops.get(name, (0, 0))
                hops[name] = (lists_before + lists, items_before + items)
        return hops


def _scripts(url: str) -> int:
    with RedisClient.from_url(url) as client:
        commands: dict[str, dict[str, int]] = client.info("commandstats")
    return sum(figures["calls"] for name, figures in commands.items() if name.startswith("cmdstat_eval"))
