"""Measures one workload at one concurrency and prints the row as a line of JSON: what `benchmarks.compare` calls.

    python -m benchmarks.single W2 --concurrency 64 --seconds 3

This command line and the keys of the line must stay: revisions are compared that differ in everything else. Exit code 3
where this revision does not know the workload.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import tcc
from benchmarks import servers
from benchmarks.measuring import measure, own_folder
from benchmarks.results import Row
from benchmarks.workloads import WORKLOADS, Workload

UNKNOWN = 3


async def _measured(workload: Workload, concurrency: int, seconds: float) -> Row:
    with own_folder() as folder:
        async with servers.servers(folder) as running:
            (row,) = await measure(
                workload, running, levels=[concurrency], seconds=seconds, half_rate=False, patient=False, tell=_quiet
            )
    return row


def _quiet(_: Row) -> None:
    """Who compares prints the rows."""


def main() -> int:
    """Read the command line, run, print."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is stopped then too
    parser = argparse.ArgumentParser(prog="python -m benchmarks.single")
    parser.add_argument("workload")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    if options.workload not in WORKLOADS:
        return UNKNOWN
    row = asyncio.run(_measured(WORKLOADS[options.workload], options.concurrency, options.seconds))
    print(json.dumps({**asdict(row), "code": str(Path(tcc.__file__).parent.parent)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
