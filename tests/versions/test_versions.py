"""Client, manager and participant need not have the same versions of grpcio and protobuf.

Each of them in turn has the oldest versions that are supported, while the others have the newest. The calls go directly
by gRPC, or commands and outcomes through RabbitMQ.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path

import pytest

from tests.project.imports import ROOT
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.running import Running
from tests.versions.conftest import Python

pytestmark = pytest.mark.timeout(400)  # the first test installs

CLIENT = Path(__file__).with_name("client.py")
VERSIONS = "import grpc, google.protobuf, tcc; print(grpc.__version__, google.protobuf.__version__, tcc.__file__)"


def pinned(constraints: str) -> list[str]:
    """The versions of grpcio and protobuf in a file of constraints."""
    text = (ROOT / constraints).read_text()
    return [version for name in ("grpcio", "protobuf") for version in re.findall(rf"(?m)^{name}==(.+)$", text)]


def transfers(folder: Path, client: Python, manager: Python, participant: Python, rabbitmq: str | None) -> object:
    """What a client sees that asks for a transfer of 30 from ann to bob, then for one of more than she has."""
    name = f"bank-{secrets.token_hex(4)}"  # a queue of its own
    config = folder / "tcc.toml"
    serving = ["--listen", "127.0.0.1:0", "--database", str(folder / "bank.db"), "--name", name]
    settings = ['listen = "127.0.0.1:0"', f'log = "sqlite:///{folder}/log.db"']
    if rabbitmq is not None:
        serving += ["--rabbitmq", rabbitmq]
        settings += ['courier = "rabbitmq"', f'rabbitmq.url = "{rabbitmq}"']
    with participant.running(folder / "bank.log", "services.accounts", *serving) as line:
        bank_address = line.split()[-1]
        config.write_text("\n".join([*settings, f'participants.{name}.endpoint = "{bank_address}"']))
        with manager.running(folder / "manager.log", "tcc", "server", "--config", str(config), "--json") as ready:
            return json.loads(client.run(str(CLIENT), str(json.loads(ready)["listen"]), bank_address, name))


RIGHT = {
    "transfers": [["confirmed", "CONFIRMED"], ["account ann has less than 1000 cents available", "CANCELLED"]],
    "accounts": {"ann": [70, 0], "bob": [130, 0]},
}


def test_the_versions_are_the_oldest_and_the_newest(floor: Python, newest: Python) -> None:
    oldest = floor.run("-c", VERSIONS).split()
    assert oldest[:2] == pinned("constraints-floor.txt")
    assert not oldest[2].startswith(str(ROOT))
    assert newest.run("-c", VERSIONS).split()[:2] == pinned("constraints.txt")


@pytest.mark.parametrize("old", ["client", "manager", "participant"])
def test_one_end_is_old_and_all_is_right(old: str, floor: Python, newest: Python, tmp_path: Path) -> None:
    ends = {"client": newest, "manager": newest, "participant": newest, old: floor}
    assert transfers(tmp_path, **ends, rabbitmq=None) == RIGHT


@pytest.mark.parametrize("old", ["manager", "participant"])
def test_one_end_of_rabbitmq_is_old_and_all_is_right(
    old: str, floor: Python, newest: Python, rabbitmq_server: RabbitMQ | Running, tmp_path: Path
) -> None:
    ends = {"client": newest, "manager": newest, "participant": newest, old: floor}
    assert transfers(tmp_path, **ends, rabbitmq=rabbitmq_server.url) == RIGHT
