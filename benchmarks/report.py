"""`make bench-plots`: the tables and plots of docs/performance.md, from the committed results; by hand nothing of them.

    python -m benchmarks.report write|check

Tables stand between `<!-- begin NAME -->` and `<!-- end NAME -->`. `check` says whether they are what the results give.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import scaling, tables
from benchmarks.charts import Chart, Line
from benchmarks.results import FIGURES, ROOT, SCALING, Row, Run
from benchmarks.scaling import Scaling
from benchmarks.targets import verdicts

PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "plots"

_NOT_YET = "Not measured yet.\n"


class PageBroken(Exception):
    """The page lacks a mark that a table belongs between."""


def sections(run: Run | None, scaled: Scaling | None) -> dict[str, str]:
    """The generated parts of the page, by name."""
    made = dict.fromkeys(("run", "targets", "speed", "cost", "processes", "lists"), _NOT_YET)
    made["scaling"] = _NOT_YET
    if run is not None:
        mean = run.yardstick
        made["run"] = _said(run)
        made["targets"] = tables.markdown(
            ("target", "measured", "met"),
            [(one.target, one.measured, "yes" if one.met else "**no**") for one in verdicts(run)],
        )
        made["speed"] = tables.markdown(tables.SPEED, [tables.speed(row, mean) for row in run.rows]) + _images(
            {"throughput": "Transactions a second over concurrency", "p50": "Median latency", "p99": "99th percentile"}
        )
        made["cost"] = tables.markdown(tables.COST, [tables.cost(row) for row in run.rows])
        made["processes"] = tables.markdown(tables.SPENT, [tables.spent(row) for row in run.rows])
        made["lists"] = tables.markdown(tables.LISTS, [tables.lists(row) for row in run.rows])
    if scaled is not None:
        each = scaled.bytes_an_open_transaction()
        memory = "" if each is None else f"\nAn open transaction takes {each:,.0f} bytes of the manager's memory.\n"
        images = {f"scaling-{kind}": _SCALED[kind] for kind in scaling.SIZES if scaled.of(kind)}
        made["scaling"] = (
            f"On {_machine(scaled.machine)}, {scaled.date}, revision `{scaled.revision}`.\n\n"
            + tables.markdown(scaling.HEAD, [scaling.line(point) for point in scaled.points])
            + memory
            + _images(images)
        )
    return made


_SCALED = {
    "rows": "Manager's CPU over finished transactions in the log",
    "open": "Manager's CPU over open transactions",
    "branches": "Manager's CPU over branches",
}
_ACROSS = {"rows": "finished transactions in the log", "open": "open transactions", "branches": "branches"}


def plots(run: Run | None, scaled: Scaling | None) -> dict[str, str]:
    """The plots as SVG, by name."""
    charts: dict[str, Chart] = {}
    if run is not None and any(row.concurrency for row in run.rows):
        charts["throughput"] = Chart(
            "Transactions a second",
            "transactions at once",
            "transactions / s",
            _by_workload(run, lambda row: row.per_second),
            level=(run.yardstick.per_second, "R: unary echo calls / s, 64 at once"),
        )
        for name, title, latency in (
            ("p50", "Median latency", lambda row: row.p50_ms),
            ("p99", "Latency, 99th percentile", lambda row: row.p99_ms),
        ):
            lines = _by_workload(run, latency)
            charts[name] = Chart(title, "transactions at once", "ms", lines, log_up=True)
    for kind in scaling.SIZES if scaled is not None else ():
        if scaled is not None and (points := scaled.of(kind)):
            line = Line("manager", [(point.size, point.manager_cpu_ms) for point in points])
            charts[f"scaling-{kind}"] = Chart(_SCALED[kind], _ACROSS[kind], "CPU ms / transaction", [line])
    return {name: chart.to_svg() for name, chart in charts.items()}


def placed(page: str, made: Mapping[str, str]) -> str:
    """The page with these parts between their marks. Raises PageBroken."""
    for name, text in made.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise PageBroken(f"the page has no place for {name}: it stands between {begin.strip()} and {end}")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def _by_workload(run: Run, figure: Callable[[Row], float]) -> list[Line]:
    points: dict[str, list[tuple[float, float]]] = {}
    for row in run.rows:
        if row.concurrency:
            points.setdefault(row.workload, []).append((row.concurrency, figure(row)))
    return [Line(tables.titled(name), sorted(line)) for name, line in points.items()]


def _said(run: Run) -> str:
    before, after = (f"{one.per_second:,.0f}/s" for one in run.yardsticks)
    mean = run.yardstick
    return (
        f"On {_machine(run.machine)},\n{run.date}, revision `{run.revision}`, {run.seconds:g} s a row, by\n"
        f"`python -m benchmarks {run.command}`.\n**R = {mean.per_second:,.0f}/s** ({before} before, {after} after); "
        f"one raw round trip takes {mean.round_trip_ms:.2f} ms,\nand {mean.cpu_ms:.2f} ms CPU on both ends together. "
        f"The load of the machine was {run.machine['load_before']} before.\n"
    )


def _machine(said: Mapping[str, object]) -> str:
    return f"{said['processors']} processors ({said['model']}), {said['system']}, Python {said['python']}"


def _images(names: Mapping[str, str]) -> str:
    return "".join(f"\n![{text}](plots/{name}.svg)\n" for name, text in names.items())


def _loaded() -> tuple[Run | None, Scaling | None]:
    run = Run.from_json(FIGURES.read_text("utf-8")) if FIGURES.exists() else None
    scaled = Scaling.from_json(SCALING.read_text("utf-8")) if SCALING.exists() else None
    return run, scaled


def written() -> dict[Path, str]:
    """What each generated file is to hold."""
    run, scaled = _loaded()
    files = {PAGE: placed(PAGE.read_text("utf-8"), sections(run, scaled))}
    return files | {PLOTS / f"{name}.svg": svg for name, svg in plots(run, scaled).items()}


def stale() -> list[Path]:
    """Files that are not what the committed results give, and plots that they give no more."""
    wanted = written()
    there = set(PLOTS.glob("*.svg")) | set(wanted)
    return sorted(path for path in there if not path.exists() or path.read_text("utf-8") != wanted.get(path))


def main(what: str = "write") -> int:
    """Write the files, or say which differ."""
    if what == "check":
        for path in (differing := stale()):
            print(f"{path.relative_to(ROOT)} is not what the results give: run 'make bench-plots'", file=sys.stderr)
        return 1 if differing else 0
    for path, text in written().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in stale():
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
