"""The targets of the work on speed, as arithmetic on a run's rows: what is wanted, what is there, whether it is met."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.results import Row, Run

_WAIT_MS = 50.0
_AS_IT_WAS = 1.25
"""A 99th percentile within this of another counts as the same: that of one revision differs so much between runs."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: in words, with numbers."""

    target: str
    measured: str
    met: bool


def verdicts(run: Run) -> list[Verdict]:
    """Those targets whose rows the run has."""
    found = []
    for rule in (_rates, _round_trips, _slow_participant, _hung_participant, _manager_cpu):
        found += rule(run)
    return found


def _at(run: Run, workload: str, concurrency: int) -> Row | None:
    return next((row for row in run.rows if (row.workload, row.concurrency) == (workload, concurrency)), None)


def _rates(run: Run) -> list[Verdict]:
    found = []
    for workload, concurrency, wanted in (("W1", 64, 1.2), ("W2", 64, 0.5), ("W2", 256, 0.7), ("W3", 64, 0.2)):
        if row := _at(run, workload, concurrency):
            ratio = row.to(run.yardstick)["per_second"]
            found.append(Verdict(f"{workload} at {concurrency}: {wanted} R or more", f"{ratio:.2f} R", ratio >= wanted))
    return found


def _round_trips(run: Run) -> list[Verdict]:
    row = _at(run, "W1", 1)
    if row is None:
        return []
    trips = row.to(run.yardstick)["p50"]
    return [Verdict("W1 at 1: p50 at most 6 raw round trips", f"{trips:.1f}", trips <= 6)]


def _slow_participant(run: Run) -> list[Verdict]:
    found = []
    for row in run.rows:
        if row.workload == "W7" and row.concurrency and (quick := _at(run, "W2", row.concurrency)):
            wanted = 1.1 * (_WAIT_MS + quick.p50_ms)
            target = f"W7 at {row.concurrency}: p50 within 10 % of 50 ms and W2's, so at most {wanted:.1f} ms"
            found.append(Verdict(target, f"{row.p50_ms:.1f} ms", row.p50_ms <= wanted))
    return found


def _hung_participant(run: Run) -> list[Verdict]:
    found = []
    for row in run.rows:
        if row.workload == "W9" and row.concurrency and (alone := _at(run, "W2", row.concurrency)):
            wanted = _AS_IT_WAS * alone.p99_ms
            target = f"W9 at {row.concurrency}: p99 as W2's, so at most {wanted:.1f} ms"
            found.append(Verdict(target, f"{row.p99_ms:.1f} ms", row.p99_ms <= wanted))
    return found


def _manager_cpu(run: Run) -> list[Verdict]:
    row = _at(run, "W2", 256)
    if row is None:
        return []
    used = row.cpu_ms["manager"]
    return [Verdict("W2 at 256: manager at most 0.30 ms CPU a transaction", f"{used:.2f} ms", used <= 0.30)]
