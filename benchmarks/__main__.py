"""`make bench`: two-branch transactions, and grpc.aio's own unary rate in the same run.

    python -m benchmarks [--workload bank full-postgres] [--seconds 4] [--concurrency 1 16 64] [--json FILE]

The workloads are described in `benchmarks.installation`, the counts in `benchmarks.counts`. Every process of the
toolkit has its CPU time measured; that of RabbitMQ, Redis and PostgreSQL is not in the table, although they run on the
same machine. Rows of one table come from one run on one machine; compare ratios, not numbers of different days.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.counts import Counts
from benchmarks.installation import FULL, WORKLOADS, Installation, check_servers, installed
from benchmarks.processes import Process
from tests.servers.process import ServerMissing


@dataclass
class Row:
    """One measurement; CPU in milliseconds a transaction, and counts a transaction: None where nobody counts."""

    workload: str
    concurrency: int
    per_second: float
    ratio: float
    p50_ms: float
    p99_ms: float
    client_cpu_ms: float
    manager_cpu_ms: float
    participants_cpu_ms: float
    rpcs: float
    row_writes: float
    amqp_messages: float | None
    redis_calls: float | None


async def load(*command: str) -> dict[str, float]:
    """Run the load in a process of its own: a module and its arguments."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load failed: {' '.join(command)}")
    figures: dict[str, float] = json.loads(out)
    return figures


async def yardstick(concurrency: int, seconds: float) -> float:
    """R: unary echo calls a second, both ends grpc.aio on this machine."""
    server = await Process.start("benchmarks.echo")
    try:
        figures = await load("benchmarks.load", "echo", f"127.0.0.1:{server.port}", str(concurrency), str(seconds))
    finally:
        await server.stop()
    return figures["per_second"]


async def run(workload: str, folder: Path, levels: list[int], seconds: float, rate: float) -> list[Row]:
    """One workload at each concurrency."""
    rows = []
    async with installed(workload, folder) as installation:
        before = await installation.counters.read()
        for concurrency in levels:
            row, before = await measured(workload, installation, concurrency, seconds, rate, before)
            rows.append(row)
            show(row)
    return rows


async def measured(
    workload: str, installation: Installation, concurrency: int, seconds: float, rate: float, before: Counts
) -> tuple[Row, Counts]:
    """One row, and the counts at its end."""
    cpu_before = installation.cpu_seconds()
    figures = await load(
        *("benchmarks.counted", str(installation.client_counts), "benchmarks.load", "transactions"),
        *(f"127.0.0.1:{installation.manager.port}", str(concurrency), str(seconds), *installation.names),
    )
    await installation.settled()
    cpu_after = installation.cpu_seconds()
    after = await installation.counters.read()
    calls = figures["calls"]  # with the warm-up, over which all but the client is measured

    def each(now: int | None, then: int | None) -> float | None:
        return None if now is None or then is None else (now - then) / calls

    row = Row(
        workload=workload,
        concurrency=concurrency,
        per_second=figures["per_second"],
        ratio=figures["per_second"] / rate,
        p50_ms=figures["p50_ms"],
        p99_ms=figures["p99_ms"],
        client_cpu_ms=figures["client_cpu_ms"],
        manager_cpu_ms=1000 * (cpu_after[0] - cpu_before[0]) / calls,
        participants_cpu_ms=1000 * (cpu_after[1] - cpu_before[1]) / calls,
        rpcs=(after.rpcs - before.rpcs) / calls,
        row_writes=(after.row_writes - before.row_writes) / calls,
        amqp_messages=each(after.amqp_messages, before.amqp_messages),
        redis_calls=each(after.redis_calls, before.redis_calls),
    )
    return row, after


HEAD = (
    f"{'workload':<14}{'conc':>5}{'tx/s':>8}{'/R':>8}{'p50 ms':>9}{'p99 ms':>9}{'client':>8}{'manager':>9}"
    f"{'particip.':>11}{'RPCs':>7}{'rows':>7}{'AMQP':>7}{'Redis':>7}"
)


def show(row: Row) -> None:
    """Print one line of the table."""
    counts = (row.rpcs, row.row_writes, row.amqp_messages, row.redis_calls)
    print(
        f"{row.workload:<14}{row.concurrency:>5}{row.per_second:>8.0f}{row.ratio:>8.3f}{row.p50_ms:>9.1f}"
        f"{row.p99_ms:>9.1f}{row.client_cpu_ms:>8.2f}{row.manager_cpu_ms:>9.2f}{row.participants_cpu_ms:>11.2f}"
        + "".join(f"{'-' if count is None else f'{count:.2f}':>7}" for count in counts),
        flush=True,
    )


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder that PostgreSQL's user may enter."""
    with tempfile.TemporaryDirectory(prefix="tcc-bench-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=WORKLOADS, help="all unless named")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    if set(options.workload) & set(FULL):
        try:
            check_servers()
        except ServerMissing as missing:
            parser.exit(2, f"{missing} (or: make servers); or name other workloads with --workload\n")
    started, busy = datetime.now(UTC), os.getloadavg()
    rate = await yardstick(64, options.seconds)
    print(f"R = {rate:.0f} unary echo calls/s (grpc.aio with uvloop on both ends, 64 at once, this machine, this run)")
    print(f"The machine's load was {busy[0]:.1f} before: above about 0.5, others' work is in these figures\n")
    print("CPU in ms a transaction; two branches each; RPCs, rows written, AMQP messages and Redis calls a transaction")
    print(HEAD)
    rows = []
    for workload in options.workload:
        with own_folder() as folder:
            rows += await run(workload, folder, options.concurrency, options.seconds, rate)
    if options.json:
        machine = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "load_before": busy,
        }
        result = {
            "date": started.date().isoformat(),
            "echo_per_second": rate,
            "seconds": options.seconds,
            "machine": machine,
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
