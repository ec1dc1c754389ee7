"""What the tests of the commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tcc_server.cli import main
from tests.cli.fake_manager import FakeManager, serving


class Ran(NamedTuple):
    """How a command went."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `tcc` with these arguments in this process, with its output going to no terminal."""
    for variable in ("TCC_MANAGER", "COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)

    def call(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(arguments)
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[FakeManager]:
    """A fake manager, which the commands find by the environment."""
    with serving(FakeManager()) as fake:  # type: ignore[abstract]  # the commands call no other methods
        monkeypatch.setenv("TCC_MANAGER", fake.address)
        yield fake
