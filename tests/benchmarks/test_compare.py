"""Comparing two revisions: the arithmetic, the checked-out files, and workloads that a revision does not know."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.compare import FIGURES, ROOT, Ratio, Unknown, check_out, measured


def test_a_ratio_is_of_what_was_measured_in_one_round() -> None:
    """Twice as fast in each round, while the machine itself slows down by half."""
    assert Ratio.of([100.0, 80.0, 50.0], [200.0, 160.0, 100.0]) == Ratio(2.0, 2.0, 2.0)


def test_a_ratio_shows_its_spread_and_whether_all_rounds_agree() -> None:
    mixed = Ratio.of([100.0, 100.0, 100.0], [90.0, 130.0, 110.0])
    assert str(mixed) == "1.10 (0.90 to 1.30)"
    assert not mixed.clear
    assert Ratio.of([100.0, 100.0], [110.0, 130.0]).clear
    assert Ratio.of([100.0, 100.0], [80.0, 90.0]).clear


@pytest.mark.parametrize(("base", "present"), [([1.0], [1.0, 2.0]), ([], [])])
def test_rounds_that_do_not_pair_up_give_no_ratio(base: list[float], present: list[float]) -> None:
    with pytest.raises(ValueError):
        Ratio.of(base, present)


def test_revisions_take_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Path] = []

    def answer(tree: Path, workload: str, concurrency: int, seconds: float) -> dict[str, object]:
        asked.append(tree)
        rate = 200.0 if tree == ROOT else 100.0
        return {"per_second": rate, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_ms": {"manager": 400.0 / rate, "client": 1.0}}

    monkeypatch.setattr(compare, "measured", answer)
    ratios = compare.compare(tmp_path, "W1", 64, 3, 1.0)
    assert asked == [tmp_path, ROOT] * 3
    assert set(ratios) == set(FIGURES)
    assert ratios["tx/s"].median == 2.0
    assert ratios["manager CPU ms"].median == 0.5
    assert ratios["CPU ms"].median == 3.0 / 5.0


def test_a_workload_that_a_revision_does_not_know_is_said() -> None:
    with pytest.raises(Unknown, match="W99 is unknown"):
        measured(ROOT, "W99", 1, 0.1)


def test_a_working_tree_that_does_not_run_is_not_blamed_on_the_base(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def answer(tree: Path, *_: object) -> dict[str, object]:
        if tree == ROOT:
            raise Unknown("W1 does not run with it: SyntaxError")
        return {}

    monkeypatch.setattr(compare, "measured", answer)
    with pytest.raises(RuntimeError, match="the working tree itself"):
        compare.compare(tmp_path, "W1", 64, 3, 1.0)


def test_a_revision_is_checked_out_beside_the_working_tree(tmp_path: Path) -> None:
    check_out("HEAD", tmp_path)
    assert (tmp_path / "tcc" / "__init__.py").exists()
    assert (tmp_path / "benchmarks" / "single.py").exists()
    assert not (tmp_path / ".git").exists()


def test_a_revision_without_a_comparable_benchmark_gets_the_present_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, folder = tmp_path / "repository", tmp_path / "out"
    folder.mkdir()
    (repository / "benchmarks").mkdir(parents=True)
    (repository / "benchmarks" / "old.py").write_text("")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "old")):
        subprocess.run(("git", *command), cwd=repository, check=True)
    base = subprocess.run(
        ("git", "rev-parse", "HEAD"), cwd=repository, check=True, capture_output=True, text=True
    ).stdout.strip()
    present = repository / "present"
    (present / "benchmarks").mkdir(parents=True)
    (present / "benchmarks" / "single.py").write_text("present")
    (present / "tests" / "servers").mkdir(parents=True)
    monkeypatch.setattr(compare, "ROOT", present)
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert check_out(base, folder)
    assert (folder / "benchmarks" / "single.py").read_text() == "present"
    assert not (folder / "benchmarks" / "old.py").exists()


def test_an_unknown_revision_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        check_out("no-such-revision", tmp_path)
