"""A user's project in a fresh environment outside of the repository, against the wheel as it is installed.

The project is in `user_project`: a proto with the option, a participant, a client, and a file of mistakes for the type
checker. Nothing of the checkout is on its path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.project.imports import ROOT

pytestmark = pytest.mark.timeout(400)

SOURCE = Path(__file__).with_name("user_project")
STEP_TIMEOUT = 180.0


class Project:
    """The user's project, and the Python of its own environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / ".venv" / "bin"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the project's folder."""
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=STEP_TIMEOUT,
        )


def clean_environment() -> dict[str, str]:
    """This process's environment without what would lead a Python to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TCC_", "VIRTUAL_ENV"))}


def succeeded(ran: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


@pytest.fixture(scope="module")
def project(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with the wheel installed and its proto compiled, by the commands that users are told."""
    found = Project(tmp_path_factory.mktemp("user") / "project")
    shutil.copytree(SOURCE, found.folder)
    subprocess.run([sys.executable, "-m", "venv", str(found.folder / ".venv")], check=True)
    install = (
        "python",
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
        "-c",
        str(ROOT / "constraints.txt"),
    )
    succeeded(found.run(*install, f"{wheel}[participant,types]", "mypy"))
    succeeded(found.run("tcc", "protoc", "-I", "protos", "protos/shop/v1/stock.proto"))
    return found


@contextmanager
def running(*command: str, folder: Path) -> Iterator[str]:
    """A server; gives the first line that it prints."""
    with subprocess.Popen(
        command, cwd=folder, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            assert line, process.communicate()[1]
            yield line
        finally:
            process.terminate()
            try:
                process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def test_it_sees_the_installed_package_and_not_the_checkout(project: Project) -> None:
    where = succeeded(project.run("python", "-c", "import tcc; print(tcc.__file__)")).stdout
    assert where.startswith(str(project.folder / ".venv"))


def test_mypy_strict_has_nothing_to_say(project: Project) -> None:
    ran = project.run("mypy", "--strict", "shop/participant.py", "shop/client.py")
    assert ran.stdout.startswith("Success: no issues found"), ran.stdout + ran.stderr


def test_mypy_strict_finds_each_mistake(project: Project) -> None:
    ran = project.run("mypy", "--strict", "shop/mistakes.py")
    lines = (project.folder / "shop" / "mistakes.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, start=1) if "# wrong" in line}
    found = {int(line.split(":")[1]) for line in ran.stdout.splitlines() if ": error: " in line}
    assert found == wrong, ran.stdout


def test_the_participant_and_the_client_work_together(project: Project) -> None:
    python = str(project.bin / "python")
    with running(python, "-m", "shop.participant", "stock.db", folder=project.folder) as port:
        dev = (sys.executable, "-m", "tcc", "dev", "--participant", f"127.0.0.1:{port}")
        with running(*dev, "--listen", "127.0.0.1:0", "--data", ":memory:", "--json", folder=ROOT) as ready:
            address = ready.partition('"listen": "')[2].partition('"')[0]
            ran = succeeded(project.run("python", "-m", "shop.client", address))
    assert ran.stdout.splitlines() == [
        "confirmed True",
        "cancelled FAILED_PRECONDITION not enough of tea",
        "reserved, left 4",
    ]


def test_a_missing_extra_is_said_with_what_to_install(project: Project) -> None:
    ran = project.run("tcc", "dev", "--participant", "127.0.0.1:1")
    assert ran.returncode == 2
    assert ran.stderr.endswith("pip install 'tcc-toolkit[server]'\n")
