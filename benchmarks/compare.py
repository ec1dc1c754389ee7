"""`make bench-compare BASE=rev`: a revision against the working tree, in turns, so that both meet the same machine.

    python -m benchmarks.compare REVISION [--workload W1 W2] [--concurrency 64] [--rounds 3] [--seconds 3]

The revision's files go into a temporary folder; its code runs from there, with the libraries that are installed here.
Each revision runs its own `benchmarks`, so a workload is what that revision took it to be; one that has no
`benchmarks.single` yet gets the present ones laid over it. A round is one measurement of each; the figure is the
ratio within a round, and its spread over the rounds says how much to believe it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.single import UNKNOWN
from benchmarks.tables import plain
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent

FIGURES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "tx/s": lambda row: float(row["per_second"]),
    "p50 ms": lambda row: float(row["p50_ms"]),
    "p99 ms": lambda row: float(row["p99_ms"]),
    "CPU ms": lambda row: float(sum(row["cpu_ms"].values())),
    "manager CPU ms": lambda row: float(row["cpu_ms"]["manager"]),
}


@dataclass(frozen=True, slots=True)
class Ratio:
    """Present to base, over the rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, base: Sequence[float], present: Sequence[float]) -> Ratio:
        """The ratios of pairs that were measured one after the other. Raises ValueError where they do not pair up."""
        ratios = [now / then for then, now in zip(base, present, strict=True)]
        if not ratios:
            raise ValueError("nothing was measured")
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    @property
    def clear(self) -> bool:
        """Every round says the same: faster, or slower."""
        return self.lowest > 1 or self.highest < 1

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


class Unknown(Exception):
    """A revision does not know the workload, or cannot run it; the message says which and why."""


def check_out(revision: str, folder: Path) -> bool:
    """Put a revision's files into a folder; says whether they had no comparable benchmark and got the present one.

    Raises:
        subprocess.CalledProcessError: there is no such revision.
    """
    pack, unpack = ("git", "archive", "--format=tar", revision), ("tar", "-x", "-C", str(folder))
    archive = subprocess.run(pack, cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(unpack, input=archive, check=True)
    if (folder / "benchmarks" / "single.py").exists():
        return False
    shutil.rmtree(folder / "benchmarks", ignore_errors=True)
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    if not (folder / "tests" / "servers").exists():
        shutil.copytree(ROOT / "tests" / "servers", folder / "tests" / "servers")
    return True


def measured(tree: Path, workload: str, concurrency: int, seconds: float) -> dict[str, Any]:
    """One measurement with the code of a tree. Raises Unknown."""
    command = (sys.executable, "-m", "benchmarks.single", workload)
    ran = subprocess.run(
        (*command, "--concurrency", str(concurrency), "--seconds", str(seconds)),
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode == UNKNOWN:
        raise Unknown(f"{workload} is unknown to it")
    if ran.returncode:
        raise Unknown(f"{workload} does not run with it: {(ran.stderr.strip().splitlines() or ['?'])[-1]}")
    row: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    if Path(row["code"]).resolve() != tree.resolve():
        raise RuntimeError(f"the code of {row['code']} was measured, not that of {tree}")
    return row


def compare(base: Path, workload: str, concurrency: int, rounds: int, seconds: float) -> dict[str, Ratio]:
    """The figures' ratios, measured base, present, base, present, ... Raises Unknown for what the base cannot run."""
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for number in range(1, rounds + 1):
        then = measured(base, workload, concurrency, seconds)
        try:
            now = measured(ROOT, workload, concurrency, seconds)
        except Unknown as broken:
            raise RuntimeError(f"the working tree itself: {broken}") from broken
        pairs.append((then, now))
        rates = f"{then['per_second']:.0f}/s and {now['per_second']:.0f}/s"
        print(f"{workload} at {concurrency}, round {number} of {rounds}: {rates}", file=sys.stderr, flush=True)
    return {
        name: Ratio.of([figure(then) for then, _ in pairs], [figure(now) for _, now in pairs])
        for name, figure in FIGURES.items()
    }


def main() -> int:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare")
    parser.add_argument("base", help="a revision, as git names it")
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=["W1", "W2"])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("fewer than 3 rounds say nothing about the spread")
    rows = []
    with tempfile.TemporaryDirectory(prefix="tcc-compare-") as folder:
        base = Path(folder)
        try:
            older = check_out(options.base, base)
        except subprocess.CalledProcessError as failed:
            parser.error(f"{options.base}: {failed.stderr.decode().strip()}")
        if older:
            print(f"{options.base} is older than this benchmark: it is measured by the present one", flush=True)
        for workload in options.workload:
            for concurrency in options.concurrency:
                try:
                    ratios = compare(base, workload, concurrency, options.rounds, options.seconds)
                except Unknown as unknown:
                    print(f"{options.base}: {unknown}", flush=True)
                    break
                said = (f"{ratio}{'' if ratio.clear else ' ?'}" for ratio in ratios.values())
                rows.append((workload, str(concurrency), *said))
    if rows:
        print(f"\nThe working tree against {options.base}: median ratio of {options.rounds} rounds (lowest to highest)")
        print("?: not all rounds agree on which is more\n")
        print(plain(("workload", "at once", *FIGURES), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
