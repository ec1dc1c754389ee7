"""`make bench`: two-branch transactions on the embedded default, and grpc.aio's own unary rate in the same run.

    python -m benchmarks [--seconds 5] [--concurrency 1 16 64] [--json FILE]

Two workloads: *coordination* (participants do nothing, fence in memory: SQLite log, gRPC, manager) and *bank* (real
balances and fences in SQLite, two databases). Every process has its CPU time measured. Rows of one table come from one
run on one machine; compare ratios, not numbers of different days.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc.aio

from benchmarks.processes import Process
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub


@dataclass
class Row:
    """One measurement; CPU in milliseconds a transaction."""

    workload: str
    concurrency: int
    per_second: float
    ratio: float
    p50_ms: float
    p99_ms: float
    client_cpu_ms: float
    manager_cpu_ms: float
    participants_cpu_ms: float


async def load(*arguments: str) -> dict[str, float]:
    """Run `benchmarks.load` in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.load", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load failed: {' '.join(arguments)}")
    figures: dict[str, float] = json.loads(out)
    return figures


async def yardstick(concurrency: int, seconds: float) -> float:
    """R: unary echo calls a second, both ends grpc.aio on this machine."""
    server = await Process.start("benchmarks.echo")
    try:
        figures = await load("echo", f"127.0.0.1:{server.port}", str(concurrency), str(seconds))
    finally:
        await server.stop()
    return figures["per_second"]


async def run(workload: str, folder: Path, levels: list[int], seconds: float, rate: float) -> list[Row]:
    """One workload at each concurrency."""
    if workload == "bank":
        names = ["bank-a", "bank-b"]
        participants = [
            await Process.start(
                "services.accounts", "--listen", "127.0.0.1:0", "--database", str(folder / f"{name}.db"), "--name", name
            )
            for name in names
        ]
        for participant in participants:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{participant.port}") as channel:
                await AccountsStub(channel).OpenAccount(pb.OpenAccountRequest(account="bench", available=10**12))
    else:
        names = ["noop", "noop"]
        participants = [await Process.start("benchmarks.noop")]
    endpoints = [part for process in participants for part in ("--participant", f"127.0.0.1:{process.port}")]
    manager = await Process.start(
        "tcc", "dev", "--json", "--listen", "127.0.0.1:0", "--data", str(folder / workload), *endpoints
    )
    rows = []
    try:
        for concurrency in levels:
            before = manager.cpu_seconds(), sum(process.cpu_seconds() for process in participants)
            figures = await load("transactions", f"127.0.0.1:{manager.port}", str(concurrency), str(seconds), *names)
            after = manager.cpu_seconds(), sum(process.cpu_seconds() for process in participants)
            # The other processes are measured over the warm-up too, so their share is by all that were run.
            total = figures["count"] * 1.2
            rows.append(
                Row(
                    workload=workload,
                    concurrency=concurrency,
                    per_second=figures["per_second"],
                    ratio=figures["per_second"] / rate,
                    p50_ms=figures["p50_ms"],
                    p99_ms=figures["p99_ms"],
                    client_cpu_ms=figures["client_cpu_ms"],
                    manager_cpu_ms=1000 * (after[0] - before[0]) / total,
                    participants_cpu_ms=1000 * (after[1] - before[1]) / total,
                )
            )
            show(rows[-1])
    finally:
        await manager.stop()
        for process in participants:
            await process.stop()
    return rows


def show(row: Row) -> None:
    """Print one line of the table."""
    print(
        f"{row.workload:<14}{row.concurrency:>5}{row.per_second:>10.0f}{row.ratio:>8.3f}{row.p50_ms:>9.1f}"
        f"{row.p99_ms:>9.1f}{row.client_cpu_ms:>10.2f}{row.manager_cpu_ms:>10.2f}{row.participants_cpu_ms:>14.2f}",
        flush=True,
    )


async def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    rate = await yardstick(64, options.seconds)
    print(
        f"R = {rate:.0f} unary echo calls/s (grpc.aio with uvloop on both ends, 64 at once, this machine, this run)\n"
    )
    print("CPU in ms a transaction; two branches each")
    print(
        f"{'workload':<14}{'conc':>5}{'tx/s':>10}{'/R':>8}{'p50 ms':>9}{'p99 ms':>9}"
        f"{'client':>10}{'manager':>10}{'participants':>14}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for workload in ("coordination", "bank"):
            rows += await run(workload, Path(folder), options.concurrency, options.seconds, rate)
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.platform()}
        result = {"echo_per_second": rate, "machine": machine, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
