"""The scripts of deploy/ against real processes: health, and the load on a whole shop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.demo.test_readme import ROOT, Project, environment
from tests.servers.process import free_port


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A manager, a bank, a warehouse and the orders; gives their addresses."""
    project = Project(tmp_path_factory.mktemp("shop"))
    names = {"accounts": "bank", "inventory": "inventory", "orders": "orders"}
    at = {name: f"127.0.0.1:{free_port()}" for name in (*names, "manager")}
    with ExitStack() as running:
        for service, name in names.items():
            more = ["--manager", at["manager"], "--shop", "shop"] if service == "orders" else []
            words = ("-m", f"services.{service}", "--listen", at[service], "--name", name, *more)
            running.enter_context(project.running(*words))
        lines = [f"listen = '{at['manager']}'", "[participants]"]
        lines += [f"{name}.endpoint = '{at[service]}'" for service, name in names.items()]
        (project.folder / "tcc.toml").write_text("\n".join(lines))
        running.enter_context(project.running("-m", "tcc", "server", "--config", "tcc.toml", "--json"))
        yield at


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy" / name), *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", ["manager", "accounts", "inventory", "orders"])
def test_whoever_serves_is_healthy(shop: dict[str, str], name: str) -> None:
    ran = script("health.py", shop[name])
    assert (ran.returncode, ran.stdout) == (0, "SERVING\n")


def test_whoever_is_away_is_not_healthy() -> None:
    assert script("health.py", f"127.0.0.1:{free_port()}").returncode == 1


def test_the_load_settles_all_its_orders_and_can_be_run_again(shop: dict[str, str]) -> None:
    where = ("--orders", shop["orders"], "--inventory", shop["inventory"], "--bank", shop["accounts"])
    for _ in range(2):
        ran = script("load.py", *where, "--count", "20")
        assert (ran.returncode, ran.stdout) == (0, "18 PLACED, 2 REJECTED\n"), ran.stderr
