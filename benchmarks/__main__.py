"""`make bench`: the workloads, with grpc.aio's own unary rate measured before and after in the same run.

    python -m benchmarks [--workload W1 W3] [--concurrency 1 64] [--seconds 4] [--participants 2] [--json FILE]
    python -m benchmarks --quick

The workloads are described in `benchmarks.workloads`, what is counted and how in docs/performance.md. Rows of one table
come from one run on one machine; compare ratios, not numbers of different days. Exit code 1 where a transaction ended
otherwise than it was asked to, or money is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from benchmarks import servers, tables
from benchmarks.installation import MoneyLost
from benchmarks.measuring import measure, own_folder
from benchmarks.results import Row, Run, machine, revision, today
from benchmarks.workloads import WORKLOADS, Workload
from benchmarks.yardstick import yardstick
from tests.servers.process import ServerMissing

LEVELS = (1, 16, 64, 256)

QUICK = {"W1": (1, 64), "W2": (64, 256), "W3": (64,)}
"""The headline rows."""
_QUICK_SECONDS = 1.2
_BUSY = 0.5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="all unless named")
    parser.add_argument("--concurrency", type=int, nargs="+", default=list(LEVELS))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--participants", type=int, default=1, help="processes of the participant that does nothing")
    parser.add_argument("--quick", action="store_true", help="the headline rows alone, in under a minute")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


async def run(plan: dict[Workload, tuple[int, ...]], seconds: float, *, whole: bool) -> Run:
    """Measure the workloads at these levels.

    Args:
        whole: with the row at half of the best rate, and with PostgreSQL's figures, which take 10 s a row.
    """
    found = Run(today(), revision(), " ".join(sys.argv[1:]), machine(), seconds, [])
    if found.machine["load_before"] > _BUSY:
        _say(f"The machine's load is {found.machine['load_before']}: others' work will be in these figures")
    found.yardsticks.append(await yardstick(seconds / 2))
    _say(f"R = {found.yardstick.per_second:.0f} unary echo calls/s before")
    with own_folder() as folder:
        async with servers.servers(folder) as running:
            for workload, levels in plan.items():
                options = {"levels": levels, "seconds": seconds, "half_rate": whole, "patient": whole}
                found.rows.extend(await measure(workload, running, **options, tell=_progress))  # type: ignore[arg-type]  # one dict of several kinds
    found.yardsticks.append(await yardstick(seconds / 2))
    _say(f"R = {found.yardsticks[-1].per_second:.0f} after")
    return found


def show(found: Run) -> None:
    """Print the tables."""
    before, after = (one.per_second for one in found.yardsticks)
    mean = found.yardstick
    print(
        f"R = {mean.per_second:.0f} unary calls/s of grpc.aio, 64 at once ({before:.0f} before, {after:.0f} after)\n"
        f"One call alone takes {mean.round_trip_ms:.2f} ms; both ends together use {mean.cpu_ms:.2f} ms CPU a call\n"
    )
    print(tables.plain(tables.SPEED, [tables.speed(row, mean) for row in found.rows]))
    print(tables.plain(tables.COST, [tables.cost(row) for row in found.rows]))
    print(tables.plain(tables.SPENT, [tables.spent(row) for row in found.rows]))
    print(tables.plain(tables.LISTS, [tables.lists(row) for row in found.rows]))


def _progress(row: Row) -> None:
    _say(f"{row.workload} {tables.load_of(row)}: {row.per_second:.0f}/s, p50 {row.p50_ms:.1f} ms")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Read the command line, run, print."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is stopped then too
    parser = _parser()
    options = parser.parse_args()
    levels = QUICK if options.quick else dict.fromkeys(options.workload, tuple(options.concurrency))
    plan = {WORKLOADS[name].spread(options.participants): at for name, at in levels.items()}
    try:
        servers.check(list(plan))
    except ServerMissing as missing:
        parser.exit(2, f"{missing} (or: make servers); or name other workloads with --workload\n")
    seconds = _QUICK_SECONDS if options.quick else options.seconds
    try:
        found = asyncio.run(run(plan, seconds, whole=not options.quick))
    except (MoneyLost, RuntimeError) as error:
        parser.exit(1, f"{type(error).__name__}: {error}\n")
    show(found)
    if options.json:
        options.json.write_text(found.to_json(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
