"""Two Pythons: the one that runs the tests, with the newest versions, and one with the oldest that are supported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.project.conftest import wheel as wheel  # the fixture
from tests.project.imports import ROOT

INSTALL_TIMEOUT = 300.0
RUN_TIMEOUT = 60.0


@dataclass(frozen=True)
class Python:
    """An interpreter with everything installed. It runs in the folder of the services, which is on its path.

    Attributes:
        executable: its path.
        services: the folder that holds `services`, which are in no wheel.
    """

    executable: Path
    services: Path

    @contextmanager
    def running(self, log: Path, *words: str) -> Iterator[str]:
        """Run a server as `python -m` does; gives the first line that it prints. It has to end well on SIGTERM."""
        with (
            log.open("w") as stderr,
            subprocess.Popen(
                self._command("-m", *words),
                cwd=self.services,
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            ) as process,
        ):
            assert process.stdout is not None
            try:
                line = process.stdout.readline().strip()
                assert line, log.read_text()
                yield line
            finally:
                process.terminate()
                try:
                    process.communicate(timeout=15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
        assert process.returncode == 0, log.read_text()

    def run(self, *words: str) -> str:
        """Run a program that succeeds; its output."""
        ran = subprocess.run(
            self._command(*words),
            cwd=self.services,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_TIMEOUT,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def _command(self, *words: str) -> list[str]:
        return [str(self.executable), *words]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TCC_"))}
        return {**kept, "PYTHONPATH": str(self.services), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="session")
def newest() -> Python:
    """The checkout, with the versions of constraints.txt."""
    return Python(Path(sys.executable), ROOT)


@pytest.fixture(scope="session")
def floor(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Python:
    """The wheel, with the versions of constraints-floor.txt."""
    folder = tmp_path_factory.mktemp("floor")
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    installed = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", "--disable-pip-version-check"),
            *("--no-compile", "-c", str(ROOT / "constraints-floor.txt"), f"{wheel}[server]"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT,
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
    shutil.copytree(ROOT / "services", folder / "src" / "services", ignore=shutil.ignore_patterns("__pycache__"))
    return Python(python, folder / "src")
