"""Runs mypy --strict over the files in `cases` and compares what it says with what their comments state."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = sorted((Path(__file__).parent / "cases").glob("*.py"))
STATED = re.compile(r"# (?P<kind>[EN]): (?P<text>.+)$")
SAID = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): (?P<kind>error|note): (?P<text>.*?)(?:  \[[\w-]+\])?$")
KINDS = {"error": "E", "note": "N"}


@pytest.fixture(scope="session")
def said() -> dict[str, dict[int, list[tuple[str, str]]]]:
    """What mypy says: by file and line, the kind and the text."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file", "pyproject.toml"]
    run = subprocess.run(
        [*command, *(str(path.relative_to(ROOT)) for path in CASES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert run.returncode == 1, run.stdout + run.stderr  # 0: it found nothing; 2: it could not run
    found: dict[str, dict[int, list[tuple[str, str]]]] = {}
    for line in run.stdout.splitlines():
        match = SAID.match(line)
        assert match, line
        text = match["text"].replace("services.accounts.v1.", "")
        by_line = found.setdefault(Path(match["file"]).name, {})
        by_line.setdefault(int(match["line"]), []).append((KINDS[match["kind"]], text))
    return found


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_type_checker_says_what_the_comments_state_and_nothing_else(
    path: Path, said: dict[str, dict[int, list[tuple[str, str]]]]
) -> None:
    wrong: list[str] = []
    found = said.get(path.name, {})
    for number, line in enumerate(path.read_text().splitlines(), 1):
        stated = STATED.search(line)
        heard = found.get(number, [])
        if stated is None:
            wrong += [f"line {number}: unexpected {kind}: {text}" for kind, text in heard if kind == "E"]
        elif not any(kind == stated["kind"] and stated["text"] in text for kind, text in heard):
            wrong.append(f"line {number}: expected {stated[0]!r}, got {heard or 'nothing'}")
        elif stated["kind"] == "N":
            wrong += [f"line {number}: unexpected E: {text}" for kind, text in heard if kind == "E"]
    assert not wrong, "\n".join(wrong)


def test_the_cases_state_errors_and_types() -> None:
    kinds = [match["kind"] for path in CASES for match in map(STATED.search, path.read_text().splitlines()) if match]
    assert kinds.count("E") >= 15
    assert kinds.count("N") >= 15
