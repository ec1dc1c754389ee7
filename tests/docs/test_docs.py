"""The documents are what the code gives, name only tests and commands that there are, and link to what exists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tcc_server.cli._app import COMMANDS, TX_COMMANDS
from tcc_server.config import keys

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))


def test_the_generated_parts_are_what_the_code_gives() -> None:
    ran = subprocess.run(
        [sys.executable, "tools/docs.py", "check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_key_is_in_the_reference_with_its_meaning() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    for key in keys():
        assert f"**`{key.name.rpartition('.')[2]}`**" in text
        assert key.description in text


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_the_tests_that_a_document_names_are_there(path: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text()):
        assert name in names_in(ROOT / file), f"{file} has no {name}"


def test_each_claim_about_a_death_is_held_by_a_test() -> None:
    sections = (ROOT / "docs/when-x-dies.md").read_text().split("\n## ")[1:]
    assert {section.partition("\n")[0] for section in sections} == {
        "The client",
        "A participant",
        "The manager",
        "RabbitMQ",
        "Redis",
        "PostgreSQL under the manager's log",
        "The disk",
        "The clock",
    }
    for section in sections:
        assert "`tests/" in section


@pytest.mark.parametrize("path", [*DOCS, ROOT / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_the_commands_that_a_document_names_are_there(path: Path) -> None:
    for command in re.findall(r"`tcc ([a-z-]+(?: [a-z]+)?)", path.read_text()):
        first, _, second = command.partition(" ")
        assert first in COMMANDS or (first == "tx" and (not second or second in TX_COMMANDS)), command


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_the_keys_that_a_document_names_are_there(path: Path) -> None:
    tables = {key.name.partition(".")[0] for key in keys() if "." in key.name} - {"participants"}
    names = {key.name for key in keys()}
    for name in re.findall(rf"`((?:{'|'.join(sorted(tables))})\.[a-z_]+)`", path.read_text()):
        assert name in names


def names_in(path: Path) -> set[str]:
    """The names of a file's test functions."""
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
