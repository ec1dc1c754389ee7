"""`tcc tx list|show|watch` against a manager on loopback."""

from __future__ import annotations

import json

import grpc
import pytest

from tcc.v1 import transaction_pb2 as v1
from tests.cli.conftest import Run
from tests.cli.fake_manager import FakeManager, at, transaction

ENDS = [(v1.STATE_CONFIRMED, 0), (v1.STATE_CANCELLED, 5), (v1.STATE_MIXED, 6)]


def test_list_prints_a_table_with_what_needs_a_person(run: Run, manager: FakeManager) -> None:
    manager.transactions = {
        "t-1": transaction("t-1", v1.STATE_CONFIRMED, name="transfer", finished_at=at(12.34)),
        "t-2": transaction("t-2", v1.STATE_CONFIRMING, attention=True, last_error="bank: no route"),
    }
    ran = run("tx", "list")
    assert ran.code == 0
    head, first, second = ran.out.splitlines()
    assert head.split() == ["gid", "name", "state", "begun", "(UTC)", "took", "ms", "attention"]
    assert first.split() == ["t-1", "transfer", "CONFIRMED", "2026-05-28", "20:26:40.000", "12.3"]
    assert "CONFIRMING" in second
    assert "bank: no route" in second


def test_list_without_any_says_so(run: Run, manager: FakeManager) -> None:
    assert run("tx", "list") == (0, "no transactions\n", "")
    assert run("tx", "list", "--json") == (0, "", "")


def test_list_hands_its_filters_to_the_manager(run: Run, manager: FakeManager) -> None:
    assert run("tx", "list", "--state", "MIXED", "CONFIRMING", "--attention", "--name", "n", "--limit", "7").code == 0
    (request,) = manager.requests
    assert list(request.states) == [v1.STATE_MIXED, v1.STATE_CONFIRMING]
    assert (request.attention, request.name, request.page_size) == (True, "n", 7)
    assert run("tx", "list").code == 0
    assert not manager.requests[1].HasField("attention")


def test_list_as_json_follows_the_pages_up_to_the_limit(run: Run, manager: FakeManager) -> None:
    manager.page = 2
    manager.transactions = {f"t-{number}": transaction(f"t-{number}") for number in range(9)}
    ran = run("tx", "list", "--limit", "5", "--json")
    assert [json.loads(line)["gid"] for line in ran.out.splitlines()] == ["t-0", "t-1", "t-2", "t-3", "t-4"]
    assert len(manager.requests) == 3


def test_show_as_json_has_every_field_by_its_protos_name(run: Run, manager: FakeManager) -> None:
    manager.transactions = {"t-1": transaction("t-1", branches=[v1.Branch(step="0", try_reply=b"\1")])}
    ran = run("tx", "show", "t-1", "--json")
    shown = json.loads(ran.out)
    assert (shown["gid"], shown["state"], shown["attention"]) == ("t-1", "STATE_TRYING", False)
    assert shown["branches"][0]["try_reply"] == "AQ=="
    assert manager.requests[0].with_payloads


def test_a_gid_that_the_manager_does_not_know_exits_with_3(run: Run, manager: FakeManager) -> None:
    assert run("tx", "show", "t-1") == (3, "", "tcc: no transaction t-1\n")
    assert run("tx", "watch", "t-1") == (3, "", "tcc: no transaction t-1\n")


def test_a_gid_that_can_be_none_is_refused_without_a_call(run: Run, manager: FakeManager) -> None:
    for command in ("show", "watch"):
        ran = run("tx", command, "t/1")
        assert ran == (2, "", "tcc: gid 't/1' has characters other than A-Z a-z 0-9 . _ ~ -\n")
    assert manager.requests == []


@pytest.mark.parametrize("command", [("list",), ("show", "t-1"), ("watch", "t-1")], ids=lambda command: command[0])
def test_no_manager_exits_with_4_and_says_what_to_do(run: Run, command: tuple[str, ...]) -> None:
    ran = run("tx", *command, "--manager", "127.0.0.1:1")
    assert ran.code == 4
    assert ran.err.startswith("tcc: no manager answers at 127.0.0.1:1 (UNAVAILABLE")
    assert ran.err.count("\n") == 1
    assert "--manager or TCC_MANAGER" in ran.err


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, 4),
        (grpc.StatusCode.UNAVAILABLE, 4),
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.UNIMPLEMENTED, 1),
    ],
    ids=str,
)
def test_each_failure_of_a_call_has_its_exit_code_and_says_what_came(
    run: Run, manager: FakeManager, status: grpc.StatusCode, code: int
) -> None:
    manager.fails = status
    ran = run("tx", "show", "t-1")
    assert ran.code == code
    assert f"{status.name}: as the test wants it" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(("end", "code"), ENDS, ids=lambda value: str(value))
def test_watch_prints_each_state_and_exits_with_how_it_ended(
    run: Run, manager: FakeManager, end: v1.State.ValueType, code: int
) -> None:
    manager.watched = [[transaction("t-1"), transaction("t-1", end)]]
    ran = run("tx", "watch", "t-1")
    assert ran.code == code
    first, second = ran.out.splitlines()
    assert "TRYING" in first
    assert v1.State.Name(end).removeprefix("STATE_") in second


def test_watch_as_json_prints_a_document_a_state(run: Run, manager: FakeManager) -> None:
    manager.watched = [[transaction("t-1"), transaction("t-1", v1.STATE_CONFIRMED)]]
    ran = run("tx", "watch", "t-1", "--json")
    assert [json.loads(line)["state"] for line in ran.out.splitlines()] == ["STATE_TRYING", "STATE_CONFIRMED"]


def test_watch_goes_on_from_the_last_version_when_the_manager_was_away(run: Run, manager: FakeManager) -> None:
    seen = transaction("t-1")
    seen.version = 4
    manager.watched = [
        [seen, grpc.StatusCode.UNAVAILABLE],
        [grpc.StatusCode.UNAVAILABLE],
        [transaction("t-1", v1.STATE_CONFIRMED)],
    ]
    ran = run("tx", "watch", "t-1")
    assert ran.code == 0
    assert ran.err == f"tcc: lost the manager at {manager.address}, waiting for it\n"
    assert [request.after_version for request in manager.requests] == [0, 4, 4]


def test_watch_gives_up_after_its_timeout(run: Run, manager: FakeManager) -> None:
    manager.watched = [[transaction("t-1"), grpc.StatusCode.DEADLINE_EXCEEDED]]
    ran = run("tx", "watch", "t-1", "--timeout", "5")
    assert ran.code == 1
    assert ran.err == "tcc: t-1 has not ended within the timeout\n"


def test_watch_of_a_stream_that_ends_early_is_a_failure(run: Run, manager: FakeManager) -> None:
    manager.watched = [[transaction("t-1")]]
    ran = run("tx", "watch", "t-1")
    assert ran.code == 1
    assert "before it had ended" in ran.err
