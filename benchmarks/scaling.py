"""`make bench-scaling`: whether a transaction costs the same whatever else there is.

    python -m benchmarks.scaling [--rows 1000 100000] [--open 10] [--branches 1 64] [--seconds 3] [--json FILE]

- *rows*: W1 at 16 at once, with 1,000, 100,000 and 1,000,000 finished transactions in the log already.
- *open*: W2 at 16 at once, beside 10, 10,000 and 100,000 transactions, CONFIRMING at a participant that is away; and
  the manager's memory. Their commands wait in RabbitMQ. What the manager spends on them alone is measured first and
  taken off; commands are sent again after a minute here, not after ten seconds, so that this stays measurable.
- *branches*: W1 at 16 at once, with 1, 2, 4 ... 64 branches.

Cost is the manager's CPU time a transaction, client and participant on the same two processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.filling import fill
from benchmarks.installation import Installation, configuration, installed, migrate
from benchmarks.measuring import Closed, measured_row, own_folder
from benchmarks.results import machine, revision, today
from benchmarks.servers import Servers
from benchmarks.tables import plain
from benchmarks.workloads import WORKLOADS, Participant, Store, Workload
from benchmarks.yardstick import client
from tests.servers.process import ServerMissing

ROWS = (1_000, 100_000, 1_000_000)
OPEN = (10, 10_000, 100_000)
BRANCHES = (1, 2, 4, 8, 16, 32, 64)
SIZES = {"rows": ROWS, "open": OPEN, "branches": BRANCHES}

_CONCURRENCY = 16
_AWAY = "away"
_OPENING = 256
"""So many at once while the open ones are begun."""
_CALM = 3.0
"""Seconds over which the manager is watched with nothing asked of it."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement.

    Attributes:
        kind: one of `SIZES`.
        size: how many rows, open transactions or branches.
        manager_cpu_ms: a transaction, without what the manager spends anyway.
        idle_cpu: the share of one processor that it spends anyway.
        start_seconds: until the installation served.
        memory_kib: of the manager, before the load.
    """

    kind: str
    size: int
    manager_cpu_ms: float
    p50_ms: float
    per_second: float
    idle_cpu: float
    start_seconds: float
    memory_kib: int


@dataclass(frozen=True, slots=True)
class Scaling:
    """A run's points."""

    date: str
    revision: str
    machine: dict[str, Any]
    points: list[Point] = field(default_factory=list)

    def of(self, kind: str) -> list[Point]:
        """The points of a kind, smallest first."""
        return sorted((point for point in self.points if point.kind == kind), key=lambda point: point.size)

    def bytes_an_open_transaction(self) -> float | None:
        """The manager's memory for each of them; None where that was not measured."""
        points = self.of("open")
        if len(points) < 2:
            return None
        few, many = points[0], points[-1]
        return 1024 * (many.memory_kib - few.memory_kib) / (many.size - few.size)

    def to_json(self) -> str:
        """For a file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Scaling:
        """From a file."""
        said = json.loads(text)
        return cls(**{**said, "points": [Point(**point) for point in said["points"]]})


async def _point(kind: str, size: int, installation: Installation, start_seconds: float, seconds: float) -> Point:
    memory = installation.manager.memory_kib()
    counts = await installation.counters.read()
    spent, since = installation.manager.cpu_seconds(), time.monotonic()
    await asyncio.sleep(_CALM)
    idle = (installation.manager.cpu_seconds() - spent) / (time.monotonic() - since)
    since = time.monotonic()
    row, _ = await measured_row(installation, counts, Closed(_CONCURRENCY, seconds))
    of_others = 1000 * idle * (time.monotonic() - since) / row.transactions
    cost = max(0.0, row.cpu_ms["manager"] - of_others)
    return Point(kind, size, cost, row.p50_ms, row.per_second, idle, start_seconds, memory)


async def _filled(folder: Path, count: int) -> Path:
    log, config = folder / "filled.db", folder / "fill.toml"
    config.write_text(configuration(f"sqlite:///{log}", {}, None, "http://127.0.0.1:1"), encoding="utf-8")
    await migrate(config)
    await asyncio.to_thread(fill, log, count)
    return log


async def _rows(running: Servers, sizes: Sequence[int], seconds: float) -> AsyncIterator[Point]:
    for size in sizes:
        with own_folder() as folder:
            log = await _filled(folder, size)
            started = time.monotonic()
            async with installed(WORKLOADS["W1"], running, folder, log=log) as installation:
                yield await _point("rows", size, installation, time.monotonic() - started, seconds)


async def _open(running: Servers, sizes: Sequence[int], seconds: float) -> AsyncIterator[Point]:
    w2 = WORKLOADS["W2"]
    workload = replace(w2, participants=(*w2.participants, Participant(_AWAY, Store.MEMORY, away=True)))
    asked = replace(workload.asked, participants=(_AWAY,), name=_AWAY).to_json()
    settings = ("limits.open_transactions = 1000000", "retry.answer_timeout = 60", "retry.attention_age = 3600")
    for size in sizes:
        with own_folder() as folder:
            started = time.monotonic()
            async with installed(workload, running, folder, settings=settings) as installation:
                took = time.monotonic() - started
                where = (installation.target, str(_OPENING), str(size), asked, installation.otlp)
                await client("benchmarks.load", "some", *where)
                yield await _point("open", size, installation, took, seconds)


async def _branches(running: Servers, sizes: Sequence[int], seconds: float) -> AsyncIterator[Point]:
    w1 = WORKLOADS["W1"]
    for size in sizes:
        workload: Workload = replace(w1, asked=replace(w1.asked, branches=size))
        with own_folder() as folder:
            started = time.monotonic()
            async with installed(workload, running, folder) as installation:
                yield await _point("branches", size, installation, time.monotonic() - started, seconds)


async def run(sizes: Mapping[str, Sequence[int]], seconds: float) -> Scaling:
    """Measure those sizes of each kind."""
    found = Scaling(today(), revision(), machine())
    with own_folder() as folder:
        async with servers.servers(folder) as running:
            for kind, measured in (("rows", _rows), ("open", _open), ("branches", _branches)):
                async for point in measured(running, sizes[kind], seconds):
                    found.points.append(point)
                    print(f"{kind} {point.size}: {point.manager_cpu_ms:.2f} ms", file=sys.stderr, flush=True)
    return found


HEAD = ("what", "size", "manager CPU ms", "p50 ms", "tx/s", "idle CPU", "start s", "memory MiB")


def line(point: Point) -> tuple[str, ...]:
    """A point as a line of a table."""
    return (
        point.kind,
        f"{point.size:,}",
        f"{point.manager_cpu_ms:.2f}",
        f"{point.p50_ms:.1f}",
        f"{point.per_second:,.0f}",
        f"{point.idle_cpu:.0%}",
        f"{point.start_seconds:.1f}",
        f"{point.memory_kib / 1024:.0f}",
    )


def main() -> int:
    """Read the command line, run, print."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is stopped then too
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    for kind, sizes in SIZES.items():
        parser.add_argument(f"--{kind}", type=int, nargs="*", default=sizes, help="sizes; none leaves it out")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    try:
        servers.check([WORKLOADS["W2"]] if options.open else [])
    except ServerMissing as missing:
        parser.exit(2, f"{missing} (or: make servers); or leave that out with --open\n")
    found = asyncio.run(run({kind: getattr(options, kind) for kind in SIZES}, options.seconds))
    print(plain(HEAD, [line(point) for point in found.points]))
    if (each := found.bytes_an_open_transaction()) is not None:
        print(f"An open transaction takes {each:,.0f} bytes of the manager's memory")
    if options.json:
        options.json.write_text(found.to_json(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
