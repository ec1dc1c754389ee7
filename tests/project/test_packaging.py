"""What users install, and what developers install."""

from __future__ import annotations

import re
import tomllib
import zipfile
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project.imports import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_sdk_and_the_manager_and_nothing_else(names: set[str]) -> None:
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"tcc", "tcc_server", f"tcc_toolkit-{PROJECT['version']}.dist-info"}


def test_the_wheel_holds_what_is_no_python_module(names: set[str]) -> None:
    protos = {path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos" / "tcc").rglob("*.proto")}
    migrations = (ROOT / "tcc_server" / "log" / "migrations").rglob("*.py")
    assert {f"tcc/_protos/{proto}" for proto in protos} <= names
    assert {"tcc/py.typed", "tcc_server/py.typed", "tcc/v1/manager_pb2_grpc.pyi"} <= names
    assert {path.relative_to(ROOT).as_posix() for path in migrations} <= names


def test_the_wheel_has_the_command_and_the_extras(wheel: Path, names: set[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"tcc_toolkit-{PROJECT['version']}.dist-info"
        assert b"tcc = tcc_server.cli:main" in archive.read(f"{info}/entry_points.txt")
        metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
    assert set(metadata.get_all("Provides-Extra", [])) >= {"participant", "server", "types"}
    assert f"{info}/licenses/LICENSE" in names


def pins() -> dict[str, str]:
    """What constraints.txt pins, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line) for line in pinned), "only name==version lines"
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in pinned}


def test_constraints_pin_every_package_that_development_installs() -> None:
    pinned = pins()
    extras = PROJECT["optional-dependencies"]
    ours = canonicalize_name(PROJECT["name"])
    waiting = [Requirement(line) for line in [*PROJECT["dependencies"], *extras["dev"], "hatchling", "editables"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    unpinned: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        if name == ours:
            waiting += [Requirement(line) for extra in wanted for line in extras[extra]]
            continue
        if name not in pinned:
            unpinned.add(name)
        waiting += [below for below in _requirements(name) if _applies(below, wanted)]
    assert unpinned == set(), "pin them in constraints.txt, from 'pip freeze' of a clean .venv"


def test_every_pin_satisfies_what_the_project_asks_for() -> None:
    pinned = pins()
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    asked = [Requirement(line) for line in lines if not line.startswith(PROJECT["name"])]
    unfit = [str(one) for one in asked if not one.specifier.contains(pinned[canonicalize_name(one.name)])]
    assert unfit == []


def _requirements(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError:
        pytest.fail(f"{name} is not installed: run 'make venv'")


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in extras or {""})
