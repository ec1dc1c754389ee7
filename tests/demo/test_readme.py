"""The README is true: its code runs as it stands, in a folder of its own, with the commands that it gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tcc_server.cli._app import COMMANDS, TX_COMMANDS
from tcc_server.cli._exits import Exit

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
MANAGER = "127.0.0.1:7070"
LINES = 40


def blocks(document: str) -> dict[str, str]:
    """A document's code by the file name that the text before it says, or by its first line."""
    found = {}
    for text, kind, code in re.findall(r"(.*?)^```(\w+)\n(.*?)^```$", document, re.DOTALL | re.MULTILINE):
        paragraph = text.strip().rpartition("\n\n")[2]
        names = re.findall(r"`([\w/]+\.(?:proto|py|toml))`", paragraph)
        found[names[-1] if names and kind != "sh" else code.partition("\n")[0]] = code
    return found


BLOCKS = blocks(README)


@dataclass(frozen=True)
class Project:
    """The README's files in a folder, with the manager's address where the README has its default."""

    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs Python in the folder."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @contextmanager
    def running(self, *command: str) -> Iterator[str]:
        """Runs a server in the folder; gives its first line."""
        with subprocess.Popen(
            [sys.executable, *command], cwd=self.folder, env=environment(), stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().strip()
            finally:
                process.terminate()
                process.communicate(timeout=15)
        assert process.returncode == 0

    def write(self, name: str, code: str, manager: str = MANAGER) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code.replace(MANAGER, manager))


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TCC_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With the files that need no manager, and the proto compiled by the README's command."""
    made = Project(tmp_path_factory.mktemp("readme"))
    for name in ("flights/v1/flights.proto", "airline.py", "test_airline.py", "tcc.toml"):
        made.write(name, BLOCKS[name])
    compiled = made.run("-m", "tcc", "protoc", "flights/v1/flights.proto")
    assert compiled.returncode == 0, compiled.stderr
    return made


@contextmanager
def airlines_and_manager(project: Project) -> Iterator[str]:
    """What the README starts, on free ports; gives the manager's address."""
    with (
        project.running("airline.py", "north", "127.0.0.1:0") as north,
        project.running("airline.py", "south", "127.0.0.1:0") as south,
    ):
        ports = [
            re.fullmatch(rf"{name} serves on port (\d+)", line) for name, line in (("north", north), ("south", south))
        ]
        addresses = [f"127.0.0.1:{port[1]}" for port in ports if port]
        command = ("-m", "tcc", "dev", "--participant", *addresses, "--listen", "127.0.0.1:0", "--json")
        with project.running(*command) as ready:
            yield str(json.loads(ready)["listen"])


def test_the_participant_and_the_clients_do_what_the_text_says(project: Project) -> None:
    interactive = next(code for code in BLOCKS.values() if code.startswith("async with manager.transaction"))
    imports = BLOCKS["client.py"].partition("async def")[0]
    with airlines_and_manager(project) as manager:
        for name in ("client.py", "sync_client.py"):
            assert MANAGER in BLOCKS[name]
            project.write(name, BLOCKS[name], manager)
        project.write(
            "interactive.py",
            f"{imports}async def main():\n    async with tcc.Manager('{MANAGER}') as manager:\n"
            f"{textwrap.indent(interactive, ' ' * 8)}asyncio.run(main())\n",
            manager,
        )

        first = project.run("client.py")
        assert (first.returncode, first.stdout) == (0, "booked; seats left: [2, 2]\n"), first.stderr

        second = project.run("client.py")
        assert second.returncode == 1
        assert "TransactionCancelled" in second.stderr
        assert re.search(r"(north|south) refused /flights\.v1\.Flights/TryBook .*: not enough seats", second.stderr)

        plain = project.run("sync_client.py")
        assert (plain.returncode, plain.stdout) == (0, "booked; seats left: [1, 1]\n"), plain.stderr

        for participants in (["north"], ["north", "south"]):
            assert project.run("interactive.py").returncode == 0
            [newest, *_] = project.run("-m", "tcc", "tx", "list", "--manager", manager, "--json").stdout.splitlines()
            shown = project.run("-m", "tcc", "tx", "show", json.loads(newest)["gid"], "--manager", manager, "--json")
            document = json.loads(shown.stdout)
            assert document["decision"] == "DECISION_CONFIRM"
            assert [branch["participant"] for branch in document["branches"]] == participants

        listed = project.run("-m", "tcc", "tx", "list", "--manager", manager)
        assert listed.returncode == 0
        assert listed.stdout.count("CANCEL") == 1


def test_the_test_passes(project: Project) -> None:
    quiet = ("-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")
    ran = project.run("-m", "pytest", "-q", *quiet, "test_airline.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout


def test_the_configuration_is_one_that_the_manager_takes(project: Project) -> None:
    ran = project.run("-m", "tcc", "migrate", "--config", "tcc.toml")
    assert ran.returncode == 0, ran.stderr


def test_a_participant_and_a_client_are_under_40_lines() -> None:
    code = (BLOCKS["airline.py"] + BLOCKS["client.py"]).splitlines()
    assert len([line for line in code if line.strip()]) < LINES


def test_the_tables_name_every_command_exit_code_and_only_targets_that_there_are() -> None:
    for command in [*COMMANDS, *(f"tx {name}" for name in TX_COMMANDS)]:
        assert f"`tcc {command}" in README
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert codes == set(Exit)
    targets = set(re.findall(r"`make ([\w-]+)", README))
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
