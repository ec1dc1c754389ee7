"""The load: closed loops of a client, in a process of its own, that print what they saw as one line of JSON.

python -m benchmarks.load transactions|echo TARGET CONCURRENCY SECONDS DEBTOR CREDITOR
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import cycle

import grpc.aio
import uvloop

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub

ACCOUNTS = [f"bench-{number}" for number in range(64)]
"""Many, so that what is measured is not clients that wait for one row's lock."""

_WARM_UP = 0.2
"""Share of the time that is not counted."""


async def measure(call: Callable[[], Awaitable[object]], concurrency: int, seconds: float) -> dict[str, float]:
    """Run `concurrency` loops of `call` for some seconds; figures without the warm-up, but `calls` is all of them."""
    latencies: list[float] = []
    counted_from = time.perf_counter() + seconds * _WARM_UP
    end = time.perf_counter() + seconds * (1 + _WARM_UP)
    cpu_from = 0.0
    calls = 0

    async def loop() -> None:
        nonlocal calls, cpu_from
        while (start := time.perf_counter()) < end:
            await call()
            calls += 1
            if start >= counted_from:
                cpu_from = cpu_from or _cpu()
                latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(loop() for _ in range(concurrency)))
    took = time.perf_counter() - counted_from
    latencies.sort()
    count = len(latencies)
    if not count:
        raise RuntimeError(f"no call began and ended within {seconds:g} s: measure for longer")
    return {
        "calls": calls,
        "count": count,
        "per_second": count / took,
        "p50_ms": 1000 * latencies[count // 2],
        "p95_ms": 1000 * latencies[int(count * 0.95)],
        "p99_ms": 1000 * latencies[int(count * 0.99)],
        "client_cpu_ms": 1000 * (_cpu() - cpu_from) / count,
    }


async def transactions(target: str, concurrency: int, seconds: float, debtor: str, creditor: str) -> dict[str, float]:
    """Two-branch plans; the answer is the decision."""
    source = AccountsStub(tcc.plan.participant(debtor))
    destination = AccountsStub(tcc.plan.participant(creditor))
    accounts = cycle(ACCOUNTS)

    async def transfer() -> None:
        account = next(accounts)
        await manager.execute(
            source.TryDebit(pb.DebitRequest(account=account, amount=1)),
            destination.TryCredit(pb.CreditRequest(account=account, amount=1)),
        )

    async with tcc.Manager(target) as manager:
        return await measure(transfer, concurrency, seconds)


async def echo(target: str, concurrency: int, seconds: float) -> dict[str, float]:
    """Plain unary calls with a body of 100 bytes."""
    async with grpc.aio.insecure_channel(target) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/bench.Echo/Echo")
        body = b"x" * 100

        async def call() -> None:
            await method(body)

        return await measure(call, concurrency, seconds)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def main(what: str, target: str, concurrency: str, seconds: str, *names: str) -> None:
    """Run one load and print its figures."""
    if what == "echo":
        figures = await echo(target, int(concurrency), float(seconds))
    else:
        figures = await transactions(target, int(concurrency), float(seconds), names[0], names[1])
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(*sys.argv[1:]))
