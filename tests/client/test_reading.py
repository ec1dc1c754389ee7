"""Get, List, Watch and Cancel by gid: what a reader sees, and how it survives a manager that comes and goes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

import tcc
from tcc.client import _views
from tcc.v1 import manager_pb2, transaction_pb2
from tests.client.fake_manager import FakeManager, fails, never_answers, shows

Code = grpc.StatusCode
WHEN = datetime(2026, 11, 5, 3, 0, tzinfo=UTC)


def at(version: int, state: transaction_pb2.State.ValueType) -> transaction_pb2.Transaction:
    return transaction_pb2.Transaction(gid="t-1", version=version, state=state)


async def test_a_transaction_reads_as_frozen_values(manager: tcc.Manager, fake: FakeManager) -> None:
    message = transaction_pb2.Transaction(
        namespace="default",
        gid="t-1",
        name="transfer",
        state=transaction_pb2.STATE_CANCELLING,
        version=3,
        decision=transaction_pb2.DECISION_CANCEL,
        cancel_reason=transaction_pb2.CANCEL_REASON_REFUSED,
        attention=True,
    )
    message.begun_at.FromDatetime(WHEN)
    branch = message.branches.add(step="debit", participant="bank-a", command=transaction_pb2.PHASE_CANCEL)
    branch.methods.try_method = "/bank.Bank/TryDebit"
    branch.try_result = transaction_pb2.TRY_RESULT_REFUSED
    branch.try_status.code = 9
    branch.outcome = transaction_pb2.OUTCOME_KIND_RETRY
    message.history.add(what="decided", who="replica-1").at.FromDatetime(WHEN)
    fake.transactions["t-1"] = message

    view = await manager.get("t-1")
    assert (view.gid, view.name, view.state, view.version) == ("t-1", "transfer", tcc.State.CANCELLING, 3)
    assert (view.decision, view.cancel_reason) == (tcc.Decision.CANCEL, tcc.CancelReason.REFUSED)
    assert (view.begun_at, view.finished_at, view.attention) == (WHEN, None, True)
    seen = view.branches[0]
    assert (seen.step, seen.participant, seen.action.try_method) == ("debit", "bank-a", "/bank.Bank/TryDebit")
    assert (seen.try_result, seen.try_code) == (tcc.TryResult.REFUSED, Code.FAILED_PRECONDITION)
    assert (seen.command, seen.outcome, seen.settled_at) == (tcc.Decision.CANCEL, tcc.Outcome.RETRY, None)
    assert view.history == (tcc.HistoryView(at=WHEN, what="decided", who="replica-1", reason=""),)
    assert view == await manager.get("t-1")


@pytest.mark.parametrize(
    ("table", "wire", "prefix"),
    [
        (_views._STATE, transaction_pb2.State, "STATE_"),
        (_views._DECISION, transaction_pb2.Decision, "DECISION_"),
        (_views._CANCEL_REASON, transaction_pb2.CancelReason, "CANCEL_REASON_"),
        (_views._OUTCOME, transaction_pb2.OutcomeKind, "OUTCOME_KIND_"),
        (_views._TRY_RESULT, transaction_pb2.TryResult, "TRY_RESULT_"),
    ],
    ids=["State", "Decision", "CancelReason", "Outcome", "TryResult"],
)
def test_the_enums_have_the_wires_numbers_and_names(table: dict[int, str], wire: object, prefix: str) -> None:
    names = {number: name.removeprefix(prefix) for name, number in wire.items() if number}  # type: ignore[attr-defined]  # a protobuf enum
    assert {number: str(word) for number, word in table.items() if number} == names


async def test_a_state_that_only_a_newer_manager_knows_can_be_read(manager: tcc.Manager, fake: FakeManager) -> None:
    message = transaction_pb2.Transaction(gid="t-1", version=3)
    message.state = 99  # type: ignore[assignment]  # a number of the future
    message.branches.add(step="a").try_result = 99  # type: ignore[assignment]  # a number of the future
    fake.transactions["t-1"] = message
    view = await manager.get("t-1")
    assert (view.state, view.branches[0].try_result) == (tcc.State.UNKNOWN, tcc.TryResult.UNKNOWN)
    assert not view.state.is_final


async def test_an_unknown_gid_is_said_to_be_unknown(manager: tcc.Manager) -> None:
    with pytest.raises(tcc.ManagerError, match="no transaction t-9") as missing:
        await manager.get("t-9")
    assert missing.value.code is Code.NOT_FOUND


async def test_a_read_is_asked_again_while_there_is_time(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.transactions["t-1"] = at(1, transaction_pb2.STATE_TRYING)
    fake.next("Get", fails(Code.UNAVAILABLE))
    assert (await manager.get("t-1")).state is tcc.State.TRYING
    fake.next("Get", never_answers())
    with pytest.raises(tcc.ManagerUnavailable):
        await manager.get("t-1", timeout=0.1)


async def test_a_list_goes_through_all_pages_with_the_same_filter(manager: tcc.Manager, fake: FakeManager) -> None:
    for number in range(5):
        fake.transactions[f"t-{number}"] = transaction_pb2.Transaction(
            gid=f"t-{number}", state=transaction_pb2.STATE_TRYING
        )
    seen = [
        view.gid
        async for view in manager.list(
            states=[tcc.State.TRYING], attention=False, name="transfer", begun_from=WHEN, page_size=2
        )
    ]
    assert seen == ["t-0", "t-1", "t-2", "t-3", "t-4"]
    first, *rest = fake.requests("List")
    assert list(first.states) == [transaction_pb2.STATE_TRYING]
    assert (first.HasField("attention"), first.attention, first.name) == (True, False, "transfer")
    assert first.begun_from.ToDatetime(UTC) == WHEN
    for request in rest:
        request.page_token = ""
        assert request == first


async def test_a_watch_shows_every_state_until_the_final_one(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next(
        "Watch",
        shows(
            at(1, transaction_pb2.STATE_TRYING),
            at(2, transaction_pb2.STATE_CONFIRMING),
            at(3, transaction_pb2.STATE_CONFIRMED),
        ),
    )
    assert [view.version async for view in manager.watch("t-1")] == [1, 2, 3]
    assert len(fake.asked) == 1


async def test_a_watch_that_breaks_is_taken_up_where_it_broke(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next(
        "Watch",
        shows(at(1, transaction_pb2.STATE_TRYING), Code.UNAVAILABLE),
        fails(Code.UNAVAILABLE),
        shows(at(1, transaction_pb2.STATE_TRYING), at(2, transaction_pb2.STATE_CONFIRMING)),
        shows(at(3, transaction_pb2.STATE_CONFIRMED)),
    )
    assert [view.version async for view in manager.watch("t-1")] == [1, 2, 3]
    assert [request.after_version for request in fake.requests("Watch")] == [0, 1, 1, 2]


async def test_waiting_gives_the_final_state_also_over_a_break(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next(
        "Watch",
        shows(at(1, transaction_pb2.STATE_TRYING), Code.UNAVAILABLE),
        shows(at(3, transaction_pb2.STATE_CANCELLED)),
    )
    assert (await manager.wait("t-1")).state is tcc.State.CANCELLED


async def test_waiting_for_an_unknown_gid_says_so(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Watch", fails(Code.NOT_FOUND))
    with pytest.raises(tcc.ManagerError) as refused:
        await manager.wait("t-9")
    assert refused.value.code is Code.NOT_FOUND


async def test_a_watch_of_what_was_seen_to_the_end_ends(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Watch", shows())
    assert [view async for view in manager.watch("t-1", after_version=3)] == []


async def test_a_watch_of_an_unknown_gid_says_so(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Watch", fails(Code.NOT_FOUND, "no transaction t-9"))
    with pytest.raises(tcc.ManagerError, match="no transaction t-9"):
        _ = [view async for view in manager.watch("t-9")]


async def test_a_watch_gives_up_on_a_manager_that_stays_away(tmp_path: Path) -> None:
    async with tcc.Manager(f"unix:{tmp_path}/nobody") as manager:
        with pytest.raises(tcc.ManagerUnavailable, match="t-1"):
            _ = [view async for view in manager.watch("t-1", timeout=0.1)]


async def test_a_transaction_is_cancelled_by_gid(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.transactions["t-1"] = at(1, transaction_pb2.STATE_TRYING)
    fake.next("Cancel", fails(Code.UNAVAILABLE))
    view = await manager.cancel("t-1", "client crashed", wait=tcc.COMPLETED)
    assert view.state is tcc.State.CANCELLING
    expected = manager_pb2.CancelRequest(gid="t-1", reason="client crashed", wait=manager_pb2.WAIT_COMPLETED)
    assert fake.requests("Cancel") == [expected, expected]


async def test_a_cancel_after_the_confirm_is_refused(manager: tcc.Manager, fake: FakeManager) -> None:
    fake.next("Cancel", fails(Code.FAILED_PRECONDITION, "t-1 is confirmed", "DECIDED"))
    with pytest.raises(tcc.ManagerError, match="t-1 is confirmed") as refused:
        await manager.cancel("t-1")
    assert (refused.value.code, refused.value.reason) == (Code.FAILED_PRECONDITION, "DECIDED")


@pytest.mark.parametrize("state", [tcc.State.UNKNOWN, tcc.State.UNKNOWABLE])
async def test_a_list_by_a_state_that_nothing_stored_has_says_so(manager: tcc.Manager, state: tcc.State) -> None:
    with pytest.raises(tcc.UsageError, match=r"State\.open\(\)"):
        _ = [view async for view in manager.list(states=[state])]


def test_the_open_states_are_those_that_something_stored_can_have_and_that_are_not_final() -> None:
    told = {tcc.State.UNKNOWN, tcc.State.UNKNOWABLE}
    assert set(tcc.State.open()) == {state for state in tcc.State if not state.is_final} - told
