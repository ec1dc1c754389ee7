"""`tcc dev`, `tcc server` and `tcc migrate` as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tcc.v1 import participant_pb2, participant_pb2_grpc
from tests.cli.conftest import Run
from tests.cli.fake_manager import FakeManager

ROOT = Path(__file__).resolve().parents[2]
DEV = ("dev", "--participant", "bank=127.0.0.1:1", "--listen", "127.0.0.1:0")


@contextmanager
def started(*arguments: str, folder: Path = ROOT) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The process and what it said when it was ready."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TCC_")}
    with subprocess.Popen(
        [sys.executable, "-m", "tcc", *arguments, "--json"],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield process, json.loads(line)
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], number: signal.Signals) -> int:
    """The exit code after a signal."""
    process.send_signal(number)
    process.communicate(timeout=15)
    return process.returncode


def test_dev_serves_until_sigterm_and_again_on_the_same_data(run: Run, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with started(*DEV, "--data", str(tmp_path / "new" / "data")) as (process, ready):
            assert ready["event"] == "ready"
            assert ready["pid"] == process.pid
            assert ready["participants"] == {"bank": "127.0.0.1:1"}
            assert run("tx", "list", "--manager", ready["listen"]) == (0, "no transactions\n", "")
            assert ended(process, number) == 0
    assert (tmp_path / "new" / "data" / "tcc.db").is_file()


def test_dev_in_memory_leaves_nothing_behind(tmp_path: Path) -> None:
    with started(*DEV, "--data", ":memory:", folder=tmp_path) as (process, _):
        assert ended(process, signal.SIGTERM) == 0
    assert list(tmp_path.iterdir()) == []


def test_dev_offers_reflection_for_grpcurl() -> None:
    with started(*DEV, "--data", ":memory:") as (process, ready), grpc.insecure_channel(ready["listen"]) as channel:
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))
        assert "tcc.v1.TransactionManager" in {one.name for one in answer.list_services_response.service}
        assert ended(process, signal.SIGTERM) == 0


class Bank(participant_pb2_grpc.ParticipantServicer):
    """Says who it is, and no more."""

    def Describe(
        self, request: participant_pb2.DescribeRequest, context: grpc.ServicerContext
    ) -> participant_pb2.DescribeResponse:
        return participant_pb2.DescribeResponse(
            participants=[participant_pb2.DescribeResponse.Participant(name="bank")]
        )


@pytest.fixture
def bank() -> Iterator[str]:
    """The address of a server that calls itself `bank`."""
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        participant_pb2_grpc.add_ParticipantServicer_to_server(
            Bank(),  # type: ignore[abstract]  # the command calls no other methods
            server,
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def test_dev_asks_participants_for_their_names(bank: str) -> None:
    dev = ("dev", "--listen", "127.0.0.1:0", "--data", ":memory:", "--participant", bank, "shop=127.0.0.1:1")
    with started(*dev) as (process, ready):
        assert ready["participants"] == {"bank": bank, "shop": "127.0.0.1:1"}
        assert ended(process, signal.SIGTERM) == 0


def test_dev_refuses_two_participants_of_one_name(bank: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tcc", "dev", "--data", ":memory:", "--participant", bank, "bank=127.0.0.1:1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert ran.returncode == 2
    assert ran.stderr == "tcc: two participants are called bank: name one with NAME=HOST:PORT\n"


def test_ctrl_c_while_dev_waits_for_a_participant_ends_it_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-m", "tcc", "dev", "--data", ":memory:", "--participant", address],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            silent.accept()[0].close()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=15)
    assert (process.returncode, said) == (130, "")


def test_a_port_in_use_is_one_line_and_exit_1(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "tcc.toml").write_text(f'listen = "{address}"\nlog = "memory:"\nlog_level = "error"\n')
        ran = subprocess.run(
            [sys.executable, "-m", "tcc", "server", "--config", str(tmp_path / "tcc.toml")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith(f"tcc: cannot listen on {address}")
    assert "Traceback" not in ran.stderr


def test_a_server_that_is_no_participant_of_the_sdk_is_named(manager: FakeManager) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tcc", "dev", "--participant", manager.address, "--data", ":memory:"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"tcc: {manager.address} is no participant of the SDK")


def test_server_serves_on_a_log_that_was_migrated_before(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "tcc.toml"
    config.write_text(f'listen = "127.0.0.1:0"\nlog = "sqlite:///{tmp_path}/log.db"\n')
    migrated = run("migrate", "--config", str(config))
    assert migrated.code == 0
    assert migrated.out.startswith(f"{tmp_path}/log.db is at revision ")
    with started("server", "--config", str(config)) as (process, ready):
        assert run("tx", "list", "--manager", ready["listen"]).code == 0
        assert ended(process, signal.SIGTERM) == 0


def test_migrate_of_a_log_in_use_is_one_line_and_exit_1(run: Run, tmp_path: Path) -> None:
    with started(*DEV, "--data", str(tmp_path)) as (process, _):
        ran = run("migrate", "--log", f"sqlite:///{tmp_path}/tcc.db")
        assert ran.code == 1
        assert ran.err.startswith("tcc: ")
        assert len(ran.err.splitlines()) == 1
        assert ended(process, signal.SIGTERM) == 0


def test_migrate_twice_changes_nothing_and_tells_the_revision(run: Run, tmp_path: Path) -> None:
    log = f"sqlite:///{tmp_path}/log.db"
    first = json.loads(run("migrate", "--log", log, "--json").out)
    assert first["log"] == f"{tmp_path}/log.db"
    assert json.loads(run("migrate", "--log", log, "--json").out) == first


def test_a_database_that_cannot_be_made_is_one_line_and_exit_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = run("migrate", "--log", f"sqlite:///{tmp_path}/file/log.db")
    assert ran.code == 1
    assert ran.err.startswith("tcc: ")
    assert len(ran.err.splitlines()) == 1
    ran = run(*DEV, "--data", str(tmp_path / "file"))
    assert ran.code == 1
    assert ran.err.startswith(f"tcc: --data {tmp_path}/file: ")
