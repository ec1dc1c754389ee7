"""The import graph of our own code, read from the source without importing it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tcc", "tcc_server", "services")


@dataclass(frozen=True, slots=True)
class Import:
    """One import: `source` imports `target`, a module or a name in one.

    Attributes:
        deferred: in a function, or for type checkers alone; it cannot make a cycle while loading.
    """

    source: str
    target: str
    line: int
    deferred: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of ours by its dotted name, generated ones included."""
    paths = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return {_dotted(path.relative_to(root)): path for path in sorted(paths)}


def imports(name: str, path: Path) -> list[Import]:
    """All imports that a module's source has."""
    tree = ast.parse(path.read_text("utf-8"), str(path))
    deferred = {
        node
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_for_type_checkers(outer)
        for node in ast.walk(outer)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: list[Import] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(name, alias.name, node.lineno, node in deferred) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            found += [Import(name, f"{base}.{alias.name}", node.lineno, node in deferred) for alias in node.names]
    return found


def module_of(target: str, known: dict[str, Path]) -> str | None:
    """Our module that an import's target is, or is in; None where it is none of ours."""
    while target:
        if target in known:
            return target
        target = target.rpartition(".")[0]
    return None


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for below in sorted(graph.get(node, ())):
            if below not in index:
                visit(below)
                low[node] = min(low[node], low[below])
            elif below in stack:
                low[node] = min(low[node], index[below])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = ".".join(parts[: len(parts) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base
