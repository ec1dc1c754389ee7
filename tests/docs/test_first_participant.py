"""docs/first-participant.md is true: its code runs as it stands, and prints what the text says."""

from __future__ import annotations

import json
import re

import pytest

from tcc_server.config_load import load
from tests.demo.test_readme import MANAGER, ROOT, Project, blocks

BLOCKS = blocks((ROOT / "docs/first-participant.md").read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("hotel"))
    for name in ("rooms/v1/rooms.proto", "hotel.py", "test_hotel.py", "tcc.toml"):
        made.write(name, BLOCKS[name])
    compiled = made.run("-m", "tcc", "protoc", "rooms/v1/rooms.proto")
    assert compiled.returncode == 0, compiled.stderr
    return made


def test_its_tests_pass(project: Project) -> None:
    quiet = ("-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")
    ran = project.run("-m", "pytest", "-q", *quiet, "test_hotel.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout


def test_the_hotel_takes_bookings_as_the_text_says(project: Project) -> None:
    with project.running("hotel.py", "127.0.0.1:0") as line:
        found = re.fullmatch(r"hotel serves on port (\d+)", line)
        assert found
        serving = ("-m", "tcc", "dev", "--participant", f"127.0.0.1:{found[1]}", "--listen", "127.0.0.1:0", "--json")
        with project.running(*serving) as ready:
            manager = str(json.loads(ready)["listen"])
            assert MANAGER in BLOCKS["book.py"]
            project.write("book.py", BLOCKS["book.py"], manager)
            commands = re.findall(r"^python (book\.py .+)$", BLOCKS["python book.py trip-1 ann"], re.MULTILINE)
            said = [project.run(*command.split()) for command in commands]
            assert [one.stdout for one in said] == ["rooms 1\n", "rooms 1\n", "no: no room is free\n"], said[-1].stderr
            for command in BLOCKS["tcc tx list"].splitlines():
                shown = project.run("-m", *command.split(), "--manager", manager)
                assert shown.returncode == 0, shown.stderr
                assert "trip-2" in shown.stdout


def test_the_configuration_is_one_that_the_manager_takes(project: Project) -> None:
    config = load(project.folder / "tcc.toml")
    assert config.courier == "rabbitmq"
    assert "hotel" in config.participants
