"""Rows as tables: plain for the terminal, Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.results import Row
from benchmarks.workloads import WORKLOADS
from benchmarks.yardstick import Yardstick

SPEED = ("workload", "load", "tx/s", "/R", "p50 ms", "p95 ms", "p99 ms", "p50/trip", "CPU ms", "CPU/raw")
COST = ("workload", "load", "RPCs", "stream msgs", "rows", "fsyncs", "AMQP", "Redis")
SPENT = ("workload", "load", "CPU ms a transaction, by process")
LISTS = ("workload", "load", "items a list, by hop")


def load_of(row: Row) -> str:
    """How many at once, or how many a second."""
    return f"{row.concurrency} at once" if row.concurrency else f"{row.offered:.0f}/s"


def speed(row: Row, yardstick: Yardstick) -> tuple[str, ...]:
    """Rate and latency, and what they are to R."""
    to_r = row.to(yardstick)
    return (
        row.workload,
        load_of(row),
        f"{row.per_second:,.0f}",
        f"{to_r['per_second']:.2f}",
        f"{row.p50_ms:.1f}",
        f"{row.p95_ms:.1f}",
        f"{row.p99_ms:.1f}",
        f"{to_r['p50']:.1f}",
        f"{sum(row.cpu_ms.values()):.2f}",
        f"{to_r['cpu']:.1f}",
    )


def cost(row: Row) -> tuple[str, ...]:
    """What was counted."""
    return (
        row.workload,
        load_of(row),
        f"{row.rpcs:.2f}",
        f"{row.messages:.2f}",
        _count(row.row_writes),
        ", ".join(f"{who} {count:.2f}" for who, count in row.fsyncs.items()) or "-",
        _count(row.amqp_messages),
        _count(row.redis_calls),
    )


def spent(row: Row) -> tuple[str, ...]:
    """CPU by process."""
    return row.workload, load_of(row), _pairs(row.cpu_ms, 2)


def lists(row: Row) -> tuple[str, ...]:
    """List sizes."""
    return row.workload, load_of(row), _pairs(row.lists, 1)


def plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """For a terminal: words to the left, numbers to the right."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    last = len(head) - 1

    def line(row: Sequence[str]) -> str:
        cells = [
            cell if at == last and len(head) < 4 else cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, (head, *rows))) + "\n"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """For the documentation."""
    lines = (head, ["---"] * len(head), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def titled(name: str) -> str:
    """A workload's name with what it is."""
    return f"{name} {WORKLOADS[name].title}" if name in WORKLOADS else name


def _count(count: float | None) -> str:
    return "-" if count is None else f"{count:.2f}"


def _pairs(figures: Mapping[str, float], digits: int) -> str:
    return ", ".join(f"{name} {figure:.{digits}f}" for name, figure in figures.items())
