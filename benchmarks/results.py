"""What a run found: its rows, and the file that keeps them, which the documentation's tables and plots come from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.yardstick import Yardstick, mean

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "results"
FIGURES, SCALING = FOLDER / "figures.json", FOLDER / "scaling.json"
"""The committed results."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. All counts and CPU times are a transaction's; what nobody counted is None or missing.

    Attributes:
        concurrency: closed loops; 0 where transactions arrived by a schedule.
        offered: transactions a second that were to arrive; 0 for closed loops.
        transactions: that the counts are divided by.
        cpu_ms: by process.
        fsyncs: by who made them.
        lists: mean items a list, by hop.
        ends: how many transactions ended how.
    """

    workload: str
    concurrency: int
    offered: float
    transactions: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]
    rpcs: float
    messages: float
    row_writes: float | None
    fsyncs: dict[str, float]
    amqp_messages: float | None
    redis_calls: float | None
    lists: dict[str, float]
    ends: dict[str, int]

    def to(self, yardstick: Yardstick) -> dict[str, float]:
        """Rate as a ratio to R; latencies in raw round trips; CPU in raw calls (both ends)."""
        return {
            "per_second": self.per_second / yardstick.per_second,
            "p50": self.p50_ms / yardstick.round_trip_ms,
            "p95": self.p95_ms / yardstick.round_trip_ms,
            "p99": self.p99_ms / yardstick.round_trip_ms,
            "cpu": sum(self.cpu_ms.values()) / yardstick.cpu_ms,
        }


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the benchmark.

    Attributes:
        yardsticks: R as measured before and after.
    """

    date: str
    revision: str
    command: str
    machine: dict[str, Any]
    seconds: float
    yardsticks: list[Yardstick]
    rows: list[Row] = field(default_factory=list)

    @property
    def yardstick(self) -> Yardstick:
        """The mean of those measured."""
        return mean(self.yardsticks)

    def to_json(self) -> str:
        """For a file; with the ratios, which a reader of the file should not have to compute."""
        said = asdict(self)
        said["yardstick"] = asdict(self.yardstick)
        for row, entry in zip(self.rows, said["rows"], strict=True):
            entry["to_r"] = row.to(self.yardstick)
        return json.dumps(said, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Run:
        """From a file."""
        said = json.loads(text)
        known = {name: said[name] for name in (entry.name for entry in fields(cls))}
        rows = [Row(**{name: entry[name] for name in (each.name for each in fields(Row))}) for entry in said["rows"]]
        return cls(**{**known, "yardsticks": [Yardstick(**one) for one in said["yardsticks"]], "rows": rows})


def today() -> str:
    """The date, in UTC."""
    return datetime.now(UTC).date().isoformat()


def revision() -> str:
    """The checked-out commit, with a mark where files differ from it; empty outside of a repository."""
    command = ("git", "describe", "--always", "--dirty", "--exclude=*")
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ran.stdout.strip()


def machine() -> dict[str, Any]:
    """What this runs on, and how busy it was just before."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "processors": os.cpu_count(),
        "model": models[0] if models else platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
