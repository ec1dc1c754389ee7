"""deploy/Dockerfile as far as it can be checked without a container engine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
IGNORE = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def copied() -> list[str]:
    """What is copied out of the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_what_it_copies_is_there_and_is_sent_to_the_builder() -> None:
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert f"!{source}" in IGNORE, source
    assert IGNORE[0] == "*"
    assert {line.removeprefix("!") for line in IGNORE if line.startswith("!")} == set(copied())


def test_it_copies_what_the_wheel_is_made_of() -> None:
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "tcc", "tcc_server"} <= set(copied())


def test_the_images_run_as_nobody_special() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    names = {stage.split()[2]: stage for stage in stages}
    assert set(names) == {"build", "manager", "services"}
    assert "\nUSER tcc\n" in names["manager"]
    assert names["services"].startswith("manager ")  # and so has its user
    assert "USER" not in names["services"]


def test_its_python_is_one_that_the_project_supports_and_its_versions_are_pinned() -> None:
    images = set(re.findall(r"^FROM (\S+) AS", DOCKERFILE, re.MULTILINE)) - {"manager"}
    [image] = images
    version = re.fullmatch(r"python:(3\.\d+)-slim", image)
    assert version
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]
    assert all("-c constraints.txt" in line for line in DOCKERFILE.splitlines() if "pip install" in line)
    assert "[server]" in DOCKERFILE
    assert "server" in PROJECT["optional-dependencies"]
