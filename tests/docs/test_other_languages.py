"""docs/other-languages.md against the contract: names, encodings, and that the Node client parses.

`make test-node` runs that client for real.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict

from services.accounts.v1 import accounts_pb2
from tcc import wire
from tcc.v1 import manager_pb2, transaction_pb2
from tests.demo.test_readme import ROOT

TEXT = (ROOT / "docs/other-languages.md").read_text()
ACTIONS = accounts_pb2.DESCRIPTOR.services_by_name["Accounts"]


def code(kind: str, begin: str) -> str:
    """The block of that kind that begins with that."""
    blocks: list[str] = re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if block.startswith(begin)]
    return block


def test_what_grpcurl_sends_is_a_plan_that_debits_an_account() -> None:
    document = json.loads(re.findall(r"-d '(\{.*?\})' ", code("sh", "grpcurl"), re.DOTALL)[0])
    request = ParseDict(document, manager_pb2.ExecuteRequest())
    [branch] = request.branches
    debit = accounts_pb2.DebitRequest.FromString(branch.request)
    assert (debit.account, debit.amount) == ("a", 5)
    assert base64.b64encode(branch.request).decode() == document["branches"][0]["request"]
    for path in (branch.methods.try_method, branch.methods.confirm_method, branch.methods.cancel_method):
        service, _, method = path[1:].partition("/")
        assert service == ACTIONS.full_name
        assert method in ACTIONS.methods_by_name


def test_grpcurl_calls_methods_that_there_are() -> None:
    service = manager_pb2.DESCRIPTOR.services_by_name["TransactionManager"]
    called = re.findall(r"tcc\.v1\.TransactionManager/(\w+)", TEXT)
    assert called
    assert set(called) <= set(service.methods_by_name)


def test_the_node_client_parses(tmp_path: Path) -> None:
    client = code("js", "const grpc")
    plain = re.sub(r"`[^`]*`|\"[^\"]*\"|//.*", "", client)
    for left, right in ("()", "[]", "{}"):
        assert plain.count(left) == plain.count(right)
    node = shutil.which("node")
    if node is not None:  # the tests need no Node, but use one that is there
        (tmp_path / "client.js").write_text(client)
        ran = subprocess.run([node, "--check", "client.js"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr


def test_the_node_client_uses_fields_and_methods_that_there_are() -> None:
    client = code("js", "const grpc")
    fields = {
        *manager_pb2.ExecuteRequest.DESCRIPTOR.fields_by_name,
        *manager_pb2.PlannedBranch.DESCRIPTOR.fields_by_name,
    }
    for name in ("gid", "name", "branches", "wait", "participant", "methods", "request"):
        assert name in fields
        assert re.search(rf"\b{name}\b", client)
    for name in transaction_pb2.Methods.DESCRIPTOR.fields_by_name:
        assert f"{name}:" in client
    assert manager_pb2.Wait.Value(re.findall(r"WAIT_\w+", client)[0]) == manager_pb2.WAIT_COMPLETED
    for action in re.findall(r'branch\("bank", "(\w+)"', client):
        assert {f"{phase}{action}" for phase in ("Try", "Confirm", "Cancel")} <= set(ACTIONS.methods_by_name)


def test_the_go_client_uses_messages_fields_and_packages_that_there_are() -> None:
    go = code("go", "func transfer")
    messages = {**manager_pb2.DESCRIPTOR.message_types_by_name, **transaction_pb2.DESCRIPTOR.message_types_by_name}
    assert set(re.findall(r"tccv1\.(\w+)\{", go)) <= set(messages)
    fields = {field.replace("_", "") for name in messages for field in messages[name].fields_by_name}
    for name in re.findall(r"^\t+(\w+): ", go, re.MULTILINE):
        assert name.lower() in fields, name
    for name in re.findall(r"(?:stopped|refusal|Status)\.([A-Z]\w+)", go):
        assert name.lower() in fields, name
    assert "tccv1" in manager_pb2.DESCRIPTOR.GetOptions().go_package


WORDS = (wire.NAMESPACE, wire.GID, wire.BRANCH, wire.PHASE, wire.ATTEMPT, wire.DEADLINE, wire.REQUEST_HASH)
MORE_WORDS = (wire.TRY_REPLY, wire.TRACEPARENT, wire.TRACESTATE, wire.REFUSED, wire.EXPIRES_IN, wire.STATUS_DETAILS)


@pytest.mark.parametrize("word", [*WORDS, *MORE_WORDS, wire.CONTRADICTED, wire.NO_TRY, wire.BUSY])
def test_the_words_of_the_wire_are_told(word: str) -> None:
    assert f"`{word}" in TEXT
