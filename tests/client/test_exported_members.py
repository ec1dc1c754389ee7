"""The public face: what is named can be had, nothing else is, and generated code pulls in none of it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import tcc


def test_what_is_named_is_what_dir_shows() -> None:
    assert dir(tcc) == tcc.__all__ == sorted(tcc.__all__)


@pytest.mark.parametrize("name", tcc.__all__)
def test_every_name_can_be_had(name: str) -> None:
    assert getattr(tcc, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(inspect.getsource(tcc))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == tcc._HOME


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Manger'"):
        _ = tcc.Manger  # type: ignore[attr-defined]  # the point of the test


def test_generated_code_does_not_pull_in_the_stack() -> None:
    code = (
        "import sys, tcc.v1.options_pb2\n"
        "heavy = {'grpc', 'sqlalchemy', 'opentelemetry', 'asyncio', 'tcc.client', 'tcc.errors'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_client_needs_no_database() -> None:
    code = (
        "import sys, tcc\n"
        "tcc.Manager, tcc.plan, tcc.Transaction, tcc.OutcomeUnknown\n"
        "heavy = {'sqlalchemy', 'tcc_server', 'tcc.fence', 'tcc.participant'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
