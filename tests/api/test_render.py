"""A transaction that is rendered from parts is the message that it stands for, whatever there is to be said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, strategies as st

from tcc.v1 import manager_pb2, transaction_pb2 as pb
from tcc_server.api import render
from tcc_server.core.model import (
    Ask,
    Branch,
    CancelReason,
    HistoryEntry,
    Key,
    Methods,
    OutcomeKind,
    Reservation,
    Settlement,
    State,
    Status,
    Transaction,
)

NOW = 1_760_000_000.0
TIMES = st.floats(NOW, NOW + 1000.0)
TEXTS = st.text(max_size=200)
METHODS = Methods("/a.B/TryC", "/a.B/ConfirmC", "/a.B/CancelC")
BRANCHES = st.builds(
    Branch,
    ask=st.builds(
        Ask, st.text("ab", min_size=1), st.text("ab", min_size=1), st.just(METHODS), st.just(b""), st.just(b"")
    ),
    reservation=st.sampled_from(Reservation),
    status=st.none() | st.builds(Status, st.sampled_from([0, 9, 14]), TEXTS, st.binary(max_size=200)),
    reply=st.binary(max_size=2000),
    expires_at=st.none() | TIMES,
    try_attempts=st.integers(1, 1000),
    try_in_flight=st.integers(0, 1),
    try_due=st.none() | st.floats(0, 10),
    try_sent_at=TIMES,
    try_answered_at=st.just(0.0) | TIMES,
    settlement=st.sampled_from(Settlement),
    outcome=st.sampled_from(OutcomeKind),
    attempts=st.integers(0, 1000),
    failures=st.integers(0, 1000),
    last_error=TEXTS,
    sent_at=st.just(0.0) | TIMES,
    settled_at=st.just(0.0) | TIMES,
)
TRANSACTIONS = st.builds(
    Transaction,
    key=st.builds(Key, st.just("default"), st.text("ab", min_size=1, max_size=64)),
    name=TEXTS,
    interactive=st.booleans(),
    state=st.sampled_from(State),
    begun_at=TIMES,
    deadline_at=TIMES,
    deadline=st.just(1.0),
    traceparent=TEXTS,
    version=st.integers(1, 2**40),
    branches=st.lists(BRANCHES, max_size=3).map(tuple),
    cancel_reason=st.sampled_from(CancelReason),
    decided_at=st.none() | TIMES,
    decided_text=TEXTS,
    finished_at=st.none() | TIMES,
    attention=st.booleans(),
    last_error=TEXTS,
    history=st.lists(st.builds(HistoryEntry, TIMES, TEXTS, TEXTS, TEXTS), max_size=3).map(tuple),
)


@given(TRANSACTIONS, st.booleans(), st.booleans())
def test_the_parts_are_those_of_the_message(tx: Transaction, with_branches: bool, with_payloads: bool) -> None:
    rendered = render.transaction(tx, with_branches=with_branches, with_payloads=with_payloads)
    assert rendered == message(tx, with_branches, with_payloads)


@given(TRANSACTIONS, st.integers(1, 2**40))
def test_an_answer_to_a_plan_is_the_response_under_the_item_s_id(tx: Transaction, number: int) -> None:
    answer = manager_pb2.ExecuteStreamResponse.Item.FromString(
        render.answer_to_plan(number, render.serialised(tx, with_payloads=True))
    )
    assert (answer.id, answer.WhichOneof("answer")) == (number, "response")
    assert answer.response.transaction == message(tx, True, True)


def test_an_ok_that_came_is_there_though_it_is_empty() -> None:
    branch = Branch(Ask("0", "p", METHODS, b"", b""), Reservation.RESERVED, Status(), try_sent_at=NOW)
    tx = Transaction(Key("default", "g"), "", False, State.TRYING, NOW, NOW, 1.0, branches=(branch,))
    assert render.transaction(tx).branches[0].HasField("try_status")
    silent = replace(tx, branches=(replace(branch, status=None),))
    assert not render.transaction(silent).branches[0].HasField("try_status")


@pytest.mark.parametrize("at", [1.0, NOW + 0.999_999_7, NOW + 0.000_000_4, 4e9])
def test_times_are_told_to_the_microsecond(at: float) -> None:
    tx = Transaction(Key("default", "g"), "", False, State.TRYING, at, NOW, 1.0)
    assert render.transaction(tx).begun_at == stamp(at)


def stamp(at: float) -> Timestamp:
    """To the microsecond."""
    micros = round(at * 1e6)
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def optional(at: float | None) -> Timestamp | None:
    """Nothing for no time."""
    return stamp(at) if at else None


def message(tx: Transaction, with_branches: bool, with_payloads: bool) -> pb.Transaction:
    """The transaction, built as messages are."""
    decision = 0 if tx.decided_at is None else 2 if tx.cancel_reason else 1
    history = [(each.at, each.what, each.who, each.reason) for each in tx.history] + [(tx.begun_at, "begun", "", "")]
    if tx.decided_at is not None:
        words = ("", "confirm", "cancel")[decision]
        history.append((tx.decided_at, "decided", "", f"{words}: {tx.decided_text}" if tx.decided_text else words))
    if tx.finished_at is not None:
        history.append((tx.finished_at, "finished", "", tx.state.value))
    made = pb.Transaction(
        namespace=tx.key.namespace,
        gid=tx.key.gid,
        name=tx.name,
        state=pb.State.Value(f"STATE_{tx.state.value}"),
        version=tx.version,
        attention=tx.attention,
        last_error=tx.last_error,
        decision=pb.Decision.Name(pb.Decision.ValueType(decision)),  # type: ignore[arg-type]  # a name will do
        cancel_reason=pb.CancelReason.ValueType(tx.cancel_reason),
        begun_at=stamp(tx.begun_at),
        deadline=stamp(tx.deadline_at),
        decided_at=optional(tx.decided_at),
        finished_at=optional(tx.finished_at),
        interactive=tx.interactive,
        traceparent=tx.traceparent,
    )
    if with_branches:
        made.branches.extend(branch_message(branch, decision, with_payloads) for branch in tx.branches)
        for at, what, who, reason in sorted(history, key=lambda entry: entry[0]):
            made.history.add(at=stamp(at), what=what, who=who, reason=reason)
    return made


def branch_message(branch: Branch, decision: int, with_payloads: bool) -> pb.Branch:
    """One of its branches."""
    undecided = branch.reservation in (Reservation.PENDING, Reservation.UNKNOWN)
    trying = undecided and (branch.try_in_flight > 0 or branch.try_due is not None)
    owed = branch.settlement is not Settlement.NOTHING_OWED
    status = branch.status
    return pb.Branch(
        step=branch.ask.step,
        participant=branch.ask.participant,
        methods=pb.Methods(try_method=METHODS[0], confirm_method=METHODS[1], cancel_method=METHODS[2]),
        try_result=pb.TryResult.ValueType({0: 0, 1: 1, 2: 2, 3: 2, 4: 3}[branch.reservation]),
        marked=branch.reservation is Reservation.REFUSED,
        try_status=pb.CallStatus(code=status.code, message=status.message, details=status.details) if status else None,
        try_reply=branch.reply if with_payloads else b"",
        try_attempts=branch.try_attempts,
        try_sent_at=stamp(branch.try_sent_at),
        try_answered_at=None if trying else optional(branch.try_answered_at),
        expires_at=optional(branch.expires_at),
        command=pb.Phase.ValueType(decision + 1 if owed and decision else 0),
        command_attempts=branch.attempts,
        command_failures=branch.failures,
        command_sent_at=optional(branch.sent_at),
        outcome=pb.OutcomeKind.ValueType(branch.outcome),
        settled_at=optional(branch.settled_at),
        last_error=branch.last_error,
    )
