"""The walls between the packages (DESIGN.md, "Layout"), and how large a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.imports import ROOT, Import, cycles, imports, module_of, modules

MODULES = modules()
IMPORTS = [found for name, path in MODULES.items() for found in imports(name, path)]

MAY_REACH_THE_SERVER = ("tcc.testing", "tcc.__main__")

PURE = frozenset(
    {
        "__future__",
        "bisect",
        "collections",
        "dataclasses",
        "enum",
        "functools",
        "heapq",
        "itertools",
        "math",
        "operator",
        "re",
        "types",
        "typing",
    }
)
"""What the core may import of the standard library: no clock, no randomness, no I/O, no event loop."""

LONGEST = 600


def top(target: str) -> str:
    return target.partition(".")[0]


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_the_sdk_reaches_the_server_only_from_its_testing_and_its_main() -> None:
    broken = [
        found
        for found in IMPORTS
        if within(found.source, "tcc")
        and not within(found.source, *MAY_REACH_THE_SERVER)
        and top(found.target) in {"tcc_server", "services", "tests", "benchmarks"}
    ]
    assert list(map(str, broken)) == []


def test_the_example_services_import_the_sdk_alone_as_a_users_code_would() -> None:
    broken = [
        found
        for found in IMPORTS
        if within(found.source, "services") and top(found.target) in {"tcc_server", "tests", "benchmarks"}
    ]
    assert list(map(str, broken)) == []


def test_the_example_services_use_the_sdks_public_names_alone() -> None:
    broken = [
        found
        for found in IMPORTS
        if within(found.source, "services")
        and top(found.target) == "tcc"
        and any(part.startswith("_") for part in found.target.split(".")[1:])
    ]
    assert list(map(str, broken)) == []


def test_the_server_imports_neither_services_nor_tests() -> None:
    broken = [
        found
        for found in IMPORTS
        if within(found.source, "tcc_server", "tcc") and top(found.target) in {"services", "tests", "benchmarks"}
    ]
    assert list(map(str, broken)) == []


def test_the_core_is_pure() -> None:
    """No I/O, no event loop, no clock, no randomness: itself and a few modules of the standard library."""
    core = [found for found in IMPORTS if within(found.source, "tcc_server.core")]
    assert core, "the core has moved: point this test at it"
    broken = [found for found in core if top(found.target) not in PURE and not within(found.target, "tcc_server.core")]
    assert list(map(str, broken)) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in IMPORTS:
        target = module_of(found.target, MODULES)
        if target is not None and target != found.source and not found.deferred:
            graph[found.source].add(target)
    assert cycles(graph) == []


def test_imports_of_our_own_stand_at_the_top_of_the_file() -> None:
    deferred = [
        found
        for found in IMPORTS
        if found.deferred and module_of(found.target, MODULES) is not None and not _is_under_type_checking(found)
    ]
    assert list(map(str, deferred)) == []


@pytest.mark.parametrize("module", ["tcc.v1.options_pb2", "tcc"])
def test_generated_code_does_not_drag_in_the_whole_stack(module: str) -> None:
    script = (
        f"import sys, {module}; print(sorted({{'grpc', 'sqlalchemy', 'tcc_server', 'tcc.errors'}} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("folder", ["tcc", "tcc_server", "services", "tests", "benchmarks", "tools"])
def test_no_file_is_longer_than_a_reader_can_hold(folder: str) -> None:
    paths = [path for path in (ROOT / folder).rglob("*.py") if "_pb2" not in path.name]
    long = {str(path.relative_to(ROOT)): lines for path in paths if (lines := _lines(path)) > LONGEST}
    assert long == {}


@pytest.mark.parametrize("folder", ["tcc", "tcc_server", "services", "benchmarks", "tools"])
def test_every_file_opens_with_what_it_is_for(folder: str) -> None:
    paths = [path for path in (ROOT / folder).rglob("*.py") if "_pb2" not in path.name and path.stat().st_size]
    silent = [
        str(path.relative_to(ROOT)) for path in paths if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_the_graphs_reader_sees_what_it_must(tmp_path: Path) -> None:
    """A test of the tests above: each kind of import, and a circle."""
    file = tmp_path / "tcc" / "inner" / "one.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import tcc_server.app as app\nfrom .two import name\nfrom .. import three\n"
        "if TYPE_CHECKING:\n    import four\ndef late():\n    from five import six\n"
    )
    found = imports("tcc.inner.one", file)
    assert {(one.target, one.deferred) for one in found} == {
        ("tcc_server.app", False),
        ("tcc.inner.two.name", False),
        ("tcc.three", False),
        ("four", True),
        ("five.six", True),
    }
    assert set(modules(tmp_path)) == {"tcc.inner.one"}
    assert module_of("tcc.inner.one.name", {"tcc.inner.one": file}) == "tcc.inner.one"
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def _lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def _is_under_type_checking(found: Import) -> bool:
    line = MODULES[found.source].read_text("utf-8").splitlines()[: found.line]
    opened = [text for text in line if text and not text.startswith((" ", ")", "#"))]
    return opened[-1].startswith("if TYPE_CHECKING")
