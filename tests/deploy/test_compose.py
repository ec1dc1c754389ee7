"""deploy/ as far as it can be checked without a container engine: names, keys, commands, paths and ports agree."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcc.amqp.problems import where
from tcc_server.cli._app import COMMANDS
from tcc_server.config import Config
from tcc_server.config_load import load

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
MANAGERS = [name for name, one in SERVICES.items() if one.get("command", [""])[0] == "server"]
PARTICIPANTS = ["accounts", "inventory", "orders"]
ALL = list(SERVICES)
PORTS = {"postgres": 5432, "rabbitmq": 5672, "redis": 6379, "jaeger": 4317}
"""Where the images of others listen."""


def filled(text: object) -> str:
    """With the default of each variable, as compose fills it in."""
    return re.sub(r"\$\{\w+:-(\w*)\}", r"\1", str(text))


def environment(name: str) -> dict[str, str]:
    return {key: filled(value) for key, value in SERVICES[name].get("environment", {}).items()}


def command(name: str) -> list[str]:
    return [filled(word) for word in SERVICES[name]["command"]]


def option(name: str, flag: str) -> str:
    words = command(name)
    return words[words.index(flag) + 1]


def configuration(name: str) -> Config:
    return load(DEPLOY / "tcc.toml", environment(name))


def listens(name: str) -> int:
    """The port of one of our own containers."""
    address = configuration(name).listen if name in MANAGERS else option(name, "--listen")
    host, _, port = address.rpartition(":")
    assert host == "0.0.0.0"  # noqa: S104  a container's own address is not known beforehand
    return int(port)


def test_the_parts_are_all_there() -> None:
    assert len(MANAGERS) == 2
    assert set(ALL) == {*MANAGERS, *PARTICIPANTS, "migrate", "load", "postgres", "rabbitmq", "redis", "jaeger"}
    assert all(SERVICES[name]["deploy"]["replicas"] == 2 for name in PARTICIPANTS)


@pytest.mark.parametrize("name", [*MANAGERS, "migrate"])
def test_the_configuration_is_one_that_the_manager_takes(name: str) -> None:
    assert any(variable.startswith("TCC_") for variable in environment(name))
    config = configuration(name)  # an unknown key or variable is an error
    assert config.courier == "rabbitmq"
    assert config.log.startswith("postgresql://")
    assert "./tcc.toml:/etc/tcc/tcc.toml:ro" in SERVICES[name]["volumes"]
    assert option(name, "--config") == "/etc/tcc/tcc.toml"


@pytest.mark.parametrize("name", [*MANAGERS, "migrate"])
def test_its_command_is_one_of_tcc(name: str) -> None:
    first, *rest = command(name)
    assert first in COMMANDS
    shown = run("-m", "tcc", first, "--help")
    for flag in (word for word in rest if word.startswith("--")):
        assert flag in shown.stdout


@pytest.mark.parametrize("name", PARTICIPANTS)
def test_a_services_command_is_taken_by_its_module(name: str) -> None:
    assert command(name)[:2] == ["-m", f"services.{name}"]
    module = importlib.import_module(f"services.{name}")
    assert module.__file__
    # `--help` ends the reading before flags that are none are complained of: they are looked up in what it says.
    ran = run(*command(name), "--help")
    assert ran.returncode == 0, ran.stderr
    known = set(re.findall(r"--[a-z]+", ran.stdout))
    assert {word for word in command(name) if word.startswith("--")} <= known


def test_the_load_is_taken_by_its_script() -> None:
    script = Path(command("load")[0])
    assert f"COPY deploy/{script.name} {script}" in DOCKERFILE
    ran = run(str(DEPLOY / script.name), *command("load")[1:], "--help")
    assert ran.returncode == 0, ran.stderr
    assert {word for word in command("load") if word.startswith("--")} <= set(re.findall(r"--[a-z]+", ran.stdout))


def test_participants_are_called_what_the_managers_call_them_and_listen_where_they_look() -> None:
    participants = configuration(MANAGERS[0]).participants
    assert {option(name, "--name"): f"{name}:{listens(name)}" for name in PARTICIPANTS} == {
        name: entry.endpoint for name, entry in participants.items()
    }
    assert option("orders", "--inventory") in participants
    assert option("orders", "--bank") in participants
    assert {option("load", f"--{flag}") for flag in ("orders", "inventory", "bank")} == {
        entry.endpoint for entry in participants.values()
    }
    assert option("load", "--shop") == option("orders", "--shop")


def test_everybody_looks_for_the_others_where_they_listen() -> None:
    config = configuration(MANAGERS[0])
    rabbits = {config.rabbitmq.url, *(option(name, "--rabbitmq") for name in PARTICIPANTS)}
    assert {where(url) for url in rabbits} == {"rabbitmq:5672"}
    assert {config.tracing.otlp, *(option(name, "--otlp") for name in PARTICIPANTS)} == {"http://jaeger:4317"}
    urls = [config.log, config.tracing.otlp, *rabbits]
    urls += [option(name, flag) for name in PARTICIPANTS for flag in ("--database", "--redis")]
    for url in urls:
        host, port = re.findall(r"//(?:[^@/]*@)?([\w-]+):(\d+)", url)[0]
        assert int(port) == PORTS[host]
    assert option("orders", "--manager") == f"manager:{listens(MANAGERS[0])}"
    assert all("manager" in SERVICES[name]["networks"]["default"]["aliases"] for name in MANAGERS)


def test_the_servers_let_in_whom_the_urls_name() -> None:
    postgres, rabbit = environment("postgres"), environment("rabbitmq")
    config = configuration(MANAGERS[0])
    in_postgres = f"//{postgres['POSTGRES_USER']}:{postgres['POSTGRES_PASSWORD']}@"
    in_rabbit = f"//{rabbit['RABBITMQ_DEFAULT_USER']}:{rabbit['RABBITMQ_DEFAULT_PASS']}@"
    assert in_postgres in config.log
    assert in_rabbit in config.rabbitmq.url
    made = re.findall(r"^CREATE DATABASE (\w+);$", (DEPLOY / "databases.sql").read_text(), re.MULTILINE)
    used = [config.log, *(option(name, "--database") for name in PARTICIPANTS)]
    assert sorted(url.rpartition("/")[2] for url in used) == sorted(made)
    for name in PARTICIPANTS:
        assert in_postgres in option(name, "--database")
        assert in_rabbit in option(name, "--rabbitmq")


@pytest.mark.parametrize("name", [*MANAGERS, *PARTICIPANTS])
def test_a_health_check_asks_where_its_container_listens(name: str) -> None:
    program, python, script, address = SERVICES[name]["healthcheck"]["test"]
    assert (program, python) == ("CMD", "python")
    assert f"COPY deploy/health.py {script}" in DOCKERFILE
    assert address == f"127.0.0.1:{listens(name)}"


@pytest.mark.parametrize("name", ALL)
def test_whoever_is_waited_for_as_healthy_has_a_health_check(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        if how["condition"] == "service_healthy":
            assert SERVICES[other]["healthcheck"].get("test")


def test_the_redis_evicts_nothing_and_keeps_its_locks() -> None:
    assert option("redis", "--maxmemory-policy") == "noeviction"
    assert option("redis", "--appendonly") == "yes"


@pytest.mark.parametrize("name", ALL)
def test_published_ports_are_this_machines_own_and_lead_to_who_listens(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        host, _, inside = port.split(":")
        assert host == "127.0.0.1"
        assert int(inside) == (listens(name) if name in MANAGERS else 16686)


@pytest.mark.parametrize("name", ALL)
def test_files_that_are_mounted_are_there_and_volumes_are_declared(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.partition(":")[0]
        assert (DEPLOY / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", ALL)
def test_images_are_ours_or_pinned_and_named_without_a_registry(name: str) -> None:
    one = SERVICES[name]
    image, _, tag = one["image"].partition(":")
    if image in {"tcc-manager", "tcc-services"}:
        target = image.removeprefix("tcc-")
        assert f" AS {target}\n" in DOCKERFILE
        if "build" in one:
            assert one["build"]["target"] == target
            assert (DEPLOY / one["build"]["context"] / one["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
        return
    assert re.fullmatch(r"\d+(\.\d+)*", tag)
    assert "." not in image.partition("/")[0]
    assert int(tag.partition(".")[0]) == {"postgres": 16, "rabbitmq": 4, "redis": 7, "jaegertracing/jaeger": 2}[image]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
