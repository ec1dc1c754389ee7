"""Tables and plots come from the results alone, and the committed page is what the committed results give."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from benchmarks import report, scaling, tables
from benchmarks.charts import Chart, Line
from benchmarks.report import PageBroken, placed, plots, sections
from benchmarks.results import Row, Run
from benchmarks.scaling import Point, Scaling
from benchmarks.targets import verdicts
from benchmarks.yardstick import Yardstick

_SVG = "{http://www.w3.org/2000/svg}"


def row(workload: str = "W1", concurrency: int = 64, per_second: float = 2000.0, p50_ms: float = 10.0) -> Row:
    return Row(
        workload=workload,
        concurrency=concurrency,
        offered=0.0 if concurrency else 1000.0,
        transactions=8000,
        per_second=per_second,
        p50_ms=p50_ms,
        p95_ms=20.0,
        p99_ms=30.0,
        cpu_ms={"client": 0.1, "manager": 0.25, "noop": 0.15},
        rpcs=1.0,
        messages=0.5,
        row_writes=3.0,
        fsyncs={"log": 0.1, "fences": 0.0},
        amqp_messages=None,
        redis_calls=None,
        lists={"log batches": 30.5},
        ends={"confirmed": 8000, "refused": 0},
    )


def run(*rows: Row) -> Run:
    machine = {"processors": 2, "model": "A", "system": "B", "python": "3.11", "load_before": 0.1}
    yardsticks = [Yardstick(3000.0, 0.4, 0.5), Yardstick(5000.0, 0.6, 0.5)]
    return Run("2026-01-02", "abc", "--workload W1", machine, 4.0, yardsticks, list(rows))


def scaled() -> Scaling:
    points = [
        Point("open", 10, 0.5, 9.0, 900.0, 0.01, 2.0, 100_000),
        Point("open", 1010, 0.5, 9.0, 900.0, 0.01, 2.0, 101_000),
    ]
    return Scaling("2026-01-02", "abc", run().machine, points)


def test_everything_is_also_said_as_a_ratio_to_the_mean_of_both_yardsticks() -> None:
    assert run(row()).yardstick == Yardstick(4000.0, 0.5, 0.5)
    ratios = row().to(run().yardstick)
    assert ratios == {"per_second": 0.5, "p50": 20.0, "p95": 40.0, "p99": 60.0, "cpu": pytest.approx(1.0)}


def test_a_run_survives_its_file() -> None:
    found = run(row(), row("W2", 0))
    assert Run.from_json(found.to_json()) == found
    assert '"to_r"' in found.to_json()
    assert Scaling.from_json(scaled().to_json()) == scaled()


def test_tables_show_what_the_results_hold() -> None:
    made = sections(run(row(), row(concurrency=0)), scaled())
    assert "| W1 | 64 at once | 2,000 | 0.50 | 10.0 | 20.0 | 30.0 | 20.0 | 0.50 | 1.0 |" in made["speed"]
    assert "| W1 | 1000/s |" in made["speed"]
    assert "| W1 | 64 at once | 1.00 | 0.50 | 3.00 | log 0.10, fences 0.00 | - | - |" in made["cost"]
    assert "client 0.10, manager 0.25, noop 0.15" in made["processes"]
    assert "log batches 30.5" in made["lists"]
    assert "R = 4,000/s** (3,000/s before, 5,000/s after)" in made["run"]
    assert "1,024 bytes of the manager's memory" in made["scaling"]
    assert f"| {' | '.join(scaling.line(scaled().points[0]))} |" in made["scaling"]


def test_the_terminal_gets_the_same_cells() -> None:
    shown = tables.plain(tables.SPEED, [tables.speed(row(), run().yardstick)])
    cells = "W1|64|at|once|2,000|0.50|10.0|20.0|30.0|20.0|0.50|1.0"
    assert "|".join(shown.splitlines()[1].split()) == cells


def test_targets_are_judged_by_the_ratios() -> None:
    found = run(
        row("W1", 1, p50_ms=3.0),
        row("W1", 64, per_second=4800.0),
        row("W2", 64, per_second=1999.0, p50_ms=20.0),
        row("W2", 256),
        row("W7", 64, p50_ms=77.0),
    )
    judged = {verdict.target.partition(":")[0]: verdict.met for verdict in verdicts(found)}
    assert judged["W1 at 64"]  # exactly 1.2
    assert not judged["W2 at 64"]  # a little less than half
    assert judged["W7 at 64"]  # exactly 1.1 * (50 + 20)
    assert judged["W2 at 256"]  # the manager's 0.25 ms, which comes after its rate
    assert judged["W1 at 1"]  # exactly 6 round trips of 0.5 ms
    assert "W3 at 64" not in judged  # nobody measured it


def test_plots_are_svg_with_a_line_a_workload_and_a_point_a_level() -> None:
    found = plots(run(row("W1", 1), row("W1", 16), row("W2", 16), row("W2", 0)), scaled())
    assert set(found) == {"throughput", "p50", "p99", "scaling-open"}
    drawing = ElementTree.fromstring(found["throughput"])  # noqa: S314  our own
    assert len(drawing.findall(f"{_SVG}circle")) == 3
    words = [text.text for text in drawing.iter(f"{_SVG}text")]
    assert {"W1 coordination", "W2 full stack", "R: unary echo calls / s, 64 at once"} <= set(words)


def test_higher_figures_are_drawn_higher() -> None:
    line = Line("a <b>", [(1, 10.0), (10, 100.0), (100, 1000.0)])
    drawing = ElementTree.fromstring(Chart("t & u", "x", "y", [line], log_up=True).to_svg())  # noqa: S314  our own
    points = [(float(point.attrib["cx"]), float(point.attrib["cy"])) for point in drawing.findall(f"{_SVG}circle")]
    assert points == sorted(points)
    heights = [height for _, height in points]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_names_of_lines_that_end_together_do_not_cover_each_other() -> None:
    lines = [Line(f"line {number}", [(1, 1.0), (2, 1.0)]) for number in range(8)]
    drawing = ElementTree.fromstring(Chart("t", "x", "y", [*lines, Line("high", [(1, 900.0)])]).to_svg())  # noqa: S314  our own
    heights = sorted(
        float(text.attrib["y"]) for text in drawing.iter(f"{_SVG}text") if (text.text or "").startswith("line ")
    )
    assert min(below - above for above, below in pairwise(heights)) >= 13
    assert heights[-1] < float(drawing.attrib["height"])


@pytest.mark.parametrize("points", [[], [(0, 1.0)]])
def test_what_cannot_be_drawn_is_said(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="t: "):
        Chart("t", "x", "y", [Line("a", points)]).to_svg()


def test_parts_go_between_their_marks_and_nothing_else_changes() -> None:
    page = "before\n<!-- begin speed -->\nold\n<!-- end speed -->\nafter\n"
    once = placed(page, {"speed": "new"})
    assert once == "before\n<!-- begin speed -->\n\nnew\n<!-- end speed -->\nafter\n"
    assert placed(once, {"speed": "new"}) == once
    with pytest.raises(PageBroken, match="cost"):
        placed(page, {"cost": "new"})


def test_the_committed_page_and_plots_are_what_the_committed_results_give() -> None:
    assert report.stale() == [], "run 'make bench-plots'"
