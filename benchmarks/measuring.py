"""Measures one workload: at each concurrency in closed loops, then by a schedule at half of its best rate."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, TypeAlias

import tcc
from benchmarks.counts import Counts, each
from benchmarks.installation import Installation, installed
from benchmarks.results import Row
from benchmarks.servers import Servers
from benchmarks.workloads import Workload
from benchmarks.yardstick import client

_CLOCK_MARGIN = timedelta(seconds=1)
_LOOPS_BESIDE = "64"
_WITHOUT_END = "86400"
_BEGINS_WITHIN = 20.0
"""Seconds that what goes on beside may take until it has begun."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Loops that run for some seconds."""

    concurrency: int
    seconds: float
    kind: ClassVar = "closed"

    @property
    def words(self) -> tuple[str, str]:
        """For the client's command line."""
        return str(self.concurrency), str(self.seconds)


@dataclass(frozen=True, slots=True)
class Some:
    """Loops that run for a number of transactions."""

    concurrency: int
    transactions: int
    kind: ClassVar = "some"

    @property
    def words(self) -> tuple[str, str]:
        """For the client's command line."""
        return str(self.concurrency), str(self.transactions)


@dataclass(frozen=True, slots=True)
class Open:
    """Arrivals by a schedule, for some seconds."""

    per_second: float
    seconds: float
    kind: ClassVar = "open"

    @property
    def words(self) -> tuple[str, str]:
        """For the client's command line."""
        return str(self.per_second), str(self.seconds)


Load: TypeAlias = Closed | Some | Open


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder that PostgreSQL's user may enter."""
    with tempfile.TemporaryDirectory(prefix="tcc-bench-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def measure(
    workload: Workload,
    servers: Servers,
    *,
    levels: Sequence[int],
    seconds: float,
    half_rate: bool,
    patient: bool,
    tell: Callable[[Row], None],
) -> list[Row]:
    """A row for each concurrency, and one at half of the best rate if wanted.

    Args:
        levels: closed loops.
        seconds: of each.
        patient: see `Counters`.
        tell: hears of each row when it is there.

    Raises:
        MoneyLost: at the end.
        RuntimeError: a transaction did not end as it was asked to, or the client failed otherwise.
    """
    rows: list[Row] = []
    with own_folder() as folder:
        async with installed(workload, servers, folder, patient=patient) as installation:
            async with aclosing(_rows(installation, levels, seconds, half_rate)) as measured:
                async for row in measured:
                    rows.append(row)
                    tell(row)
            await installation.audit()
    return rows


async def _rows(
    installation: Installation, levels: Sequence[int], seconds: float, half_rate: bool
) -> AsyncGenerator[Row, None]:
    counts = await installation.counters.read()
    best = 0.0
    for level in levels:
        row, counts = await measured_row(installation, counts, Closed(level, seconds))
        best = max(best, row.per_second)
        yield row
    if half_rate:
        row, _ = await measured_row(installation, counts, Open(best / 2, seconds))
        yield row


async def measured_row(installation: Installation, before: Counts, load: Load) -> tuple[Row, Counts]:
    """One row, and the counts at its end, when all its transactions have ended."""
    cpu_before, since = installation.cpu_seconds(), datetime.now(UTC) - _CLOCK_MARGIN
    async with _beside(installation):
        figures = await client(
            *("benchmarks.counted", str(installation.client_counts), "benchmarks.load", load.kind, installation.target),
            *(*load.words, installation.workload.asks().to_json(), installation.otlp),
        )
    await installation.settled(since)
    cpu = {name: now - cpu_before.get(name, 0.0) for name, now in installation.cpu_seconds().items()}
    after = await installation.counters.read()
    transactions = figures["calls"]  # with the warm-up, over which all but the client is measured
    cost = each(before, after, transactions)
    row = Row(
        workload=installation.workload.name,
        concurrency=0 if isinstance(load, Open) else load.concurrency,
        offered=load.per_second if isinstance(load, Open) else 0.0,
        transactions=transactions,
        per_second=figures["per_second"],
        p50_ms=figures["p50_ms"],
        p95_ms=figures["p95_ms"],
        p99_ms=figures["p99_ms"],
        cpu_ms={"client": figures["cpu_ms"], **{name: 1000 * used / transactions for name, used in cpu.items()}},
        rpcs=cost.rpcs,
        messages=cost.messages,
        row_writes=cost.row_writes,
        fsyncs=cost.fsyncs,
        amqp_messages=cost.amqp_messages,
        redis_calls=cost.redis_calls,
        lists=cost.lists,
        ends=figures["ends"],
    )
    return row, after


@asynccontextmanager
async def _beside(installation: Installation) -> AsyncIterator[None]:
    """What goes on beside the measured load, where the workload has that; it has begun, and ends with this."""
    asked = installation.workload.beside
    if asked is None:
        yield
        return
    words = ("closed", installation.target, _LOOPS_BESIDE, _WITHOUT_END, asked.to_json(), installation.otlp)
    loops = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.load", *words)
    try:
        async with tcc.Manager(installation.target) as manager, asyncio.timeout(_BEGINS_WITHIN):
            while not await _begun(manager, asked.name):  # noqa: ASYNC110  no event says what another process does
                await asyncio.sleep(0.1)
        yield
    finally:
        loops.kill()
        await loops.wait()


async def _begun(manager: tcc.Manager, name: str) -> bool:
    return bool([tx async for tx in manager.list(states=(tcc.State.TRYING,), name=name)])
