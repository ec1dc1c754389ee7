"""The client: a process of its own that runs transactions, checks what became of each, and prints figures as JSON.

    python -m benchmarks.load echo TARGET CONCURRENCY SECONDS
    python -m benchmarks.load closed TARGET CONCURRENCY SECONDS ASKED OTLP
    python -m benchmarks.load open TARGET PER_SECOND SECONDS ASKED OTLP
    python -m benchmarks.load some TARGET CONCURRENCY COUNT ASKED OTLP

`closed`: so many loops, each of which asks for the next transaction as soon as it has its answer. `open`: transactions
arrive by a schedule (exponential gaps, the same in each run), whether those before are answered or not, and a latency
counts from the scheduled time: a client that is late does not hide that somebody waited. `some`: that many, by loops.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count

import grpc.aio
import uvloop

from benchmarks.transactions import Transactions
from benchmarks.workloads import Asked

WARM_UP = 0.2
"""Share of the time, before the rest, that is not measured."""

_LATE = 20_000
"""Transactions under way at which an open loop gives up: what is asked for is more than there is room for."""

Call = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a client saw.

    Attributes:
        calls: all of them, with the warm-up.
        cpu_ms: of this process a call.
        ends: how many transactions, with the warm-up, ended how.
    """

    calls: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float
    ends: dict[str, int]


class Meter:
    """Times calls, and forgets those of the warm-up."""

    def __init__(self, seconds: float) -> None:
        self.begin = time.perf_counter()
        self._from = self.begin + (seconds * WARM_UP if seconds < math.inf else 0.0)
        self.end = self.begin + seconds * (1 + WARM_UP)
        self._latencies: list[float] = []
        self._cpu_from = 0.0
        self.calls = 0

    def note(self, since: float) -> None:
        """A call that began, or was due, then has ended now."""
        self.calls += 1
        if since >= self._from:
            self._cpu_from = self._cpu_from or _cpu()
            self._latencies.append(time.perf_counter() - since)

    def figures(self, ends: dict[str, int]) -> Figures:
        """What was seen until now. Raises RuntimeError where that is nothing."""
        took = time.perf_counter() - self._from
        latencies = sorted(self._latencies)
        if not latencies:
            raise RuntimeError("no call began and ended within the time: measure for longer")

        def share(part: float) -> float:
            return 1000 * latencies[min(int(len(latencies) * part), len(latencies) - 1)]

        cpu_ms = 1000 * (_cpu() - self._cpu_from) / len(latencies)
        return Figures(self.calls, len(latencies) / took, share(0.5), share(0.95), share(0.99), cpu_ms, ends)


async def closed_loops(call: Call, concurrency: int, meter: Meter, numbers: Iterator[int]) -> None:
    """Run so many loops until the meter's end, or until the numbers of calls are used up."""

    async def loop() -> None:
        while (start := time.perf_counter()) < meter.end and (number := next(numbers, None)) is not None:
            await call(number)
            meter.note(start)

    async with asyncio.TaskGroup() as loops:
        for _ in range(concurrency):
            loops.create_task(loop())


async def open_loop(call: Call, per_second: float, meter: Meter) -> None:
    """Let calls arrive by a schedule until the meter's end. Raises RuntimeError where they pile up."""
    dice = random.Random(4)  # noqa: S311  a schedule, not a secret
    under_way = 0

    async def one(number: int, due: float) -> None:
        nonlocal under_way
        under_way += 1
        await call(number)
        under_way -= 1
        meter.note(due)

    due = meter.begin
    async with asyncio.TaskGroup() as calls:
        for number in count():
            due += dice.expovariate(per_second)
            if due >= meter.end:
                return
            if under_way >= _LATE:
                raise RuntimeError(f"{under_way} transactions wait: {per_second:.0f}/s are too many")
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            calls.create_task(one(number, due))


async def _echo(target: str, concurrency: int, seconds: float) -> Figures:
    """Plain unary calls with a body of 100 bytes."""
    async with grpc.aio.insecure_channel(target) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/bench.Echo/Echo")
        body = b"x" * 100

        async def call(_: int) -> None:
            await method(body)

        meter = Meter(seconds)
        await closed_loops(call, concurrency, meter, count())
        return meter.figures({})


async def _transactions(kind: str, target: str, rate: float, seconds: float, asked: Asked, otlp: str) -> Figures:
    async with Transactions(target, asked, otlp) as transactions:
        meter = Meter(seconds if kind != "some" else math.inf)
        if kind == "open":
            await open_loop(transactions.run, rate, meter)
        else:
            numbers = iter(range(int(seconds))) if kind == "some" else count()
            await closed_loops(transactions.run, int(rate), meter, numbers)
        return meter.figures(transactions.ends)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def main(kind: str, target: str, rate: str, seconds: str, asked: str = "", otlp: str = "") -> None:
    """Run one load and print its figures."""
    if kind == "echo":
        figures = await _echo(target, int(rate), float(seconds))
    else:
        figures = await _transactions(kind, target, float(rate), float(seconds), Asked.from_json(asked), otlp)
    print(json.dumps(asdict(figures)), flush=True)


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(*sys.argv[1:]))
