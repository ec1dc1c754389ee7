"""What a command says of its branch, and what is heard in an outcome."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.core.model import (
    Ask,
    Branch,
    CancelReason,
    Decision,
    Key,
    Methods,
    OutcomeKind,
    Reservation,
    State,
    Status,
    Transaction,
)
from tcc_server.engine.wire_commands import command, read_outcome

METHODS = Methods("/a.B/TryC", "/a.B/ConfirmC", "/a.B/CancelC")
TRY, CONFIRM, CANCEL = transaction_pb2.PHASE_TRY, transaction_pb2.PHASE_CONFIRM, transaction_pb2.PHASE_CANCEL
DONE, RETRY = transaction_pb2.OUTCOME_KIND_DONE, transaction_pb2.OUTCOME_KIND_RETRY
NOW = 1_760_000_000.0


def decided(reply: bytes = b"reply") -> Transaction:
    """A transaction of two branches that is decided Confirm."""
    branches = tuple(
        Branch(
            Ask(step, participant, METHODS, b"asked " + step.encode(), b"h" * 16), Reservation.RESERVED, Status(), reply
        )
        for step, participant in (("0", "a"), ("1", "b"))
    )
    return Transaction(
        Key("default", "g"),
        "",
        False,
        State.CONFIRMING,
        NOW,
        NOW,
        1.0,
        "00-1-2-01",
        "a=1",
        branches=branches,
        decided_at=NOW,
    )


def test_a_command_has_all_of_its_branch() -> None:
    for tx, phase in (
        (decided(), transaction_pb2.PHASE_CONFIRM),
        (replace(decided(), cancel_reason=CancelReason.CLIENT), transaction_pb2.PHASE_CANCEL),
    ):
        for attempt in (1, 7):
            assert command(tx, 1, attempt) == Command(
                namespace="default",
                gid="g",
                branch="1",
                phase=phase,
                methods=transaction_pb2.Methods(
                    try_method=METHODS.try_method,
                    confirm_method=METHODS.confirm_method,
                    cancel_method=METHODS.cancel_method,
                ),
                request=b"asked 1",
                request_hash=b"h" * 16,
                traceparent="00-1-2-01",
                tracestate="a=1",
                attempt=attempt,
                participant="b",
            )


def test_two_commands_of_a_kind_are_messages_of_their_own() -> None:
    first, second = command(decided(), 0, 1), command(decided(), 0, 1)
    first.gid = "other"
    assert second.gid == "g"


@pytest.mark.parametrize(("length", "goes"), [(0, False), (4096, True), (4097, False)])
def test_only_bridged_participants_get_the_reply_and_only_one_that_fits(length: int, goes: bool) -> None:
    tx = decided(b"r" * length)
    assert bool(command(tx, 0, 1, {"a"}).try_reply) is goes
    assert not command(tx, 1, 1, {"a"}).try_reply


def test_an_outcome_is_heard_with_its_words_and_its_hint() -> None:
    outcome = Outcome(branch="0", phase=CONFIRM, kind=RETRY, code=14, reason="BUSY_DISK", message="later")
    outcome.retry_after.seconds, outcome.retry_after.nanos = 2, 500_000_000
    heard = read_outcome(outcome)
    assert heard is not None
    assert (heard.step, heard.phase, heard.kind) == ("0", Decision.CONFIRM, OutcomeKind.RETRY)
    assert (heard.text, heard.retry_after, heard.unreachable) == ("UNAVAILABLE: BUSY_DISK: later", 2.5, False)


def test_a_plain_done_has_no_words_and_what_nobody_sends_is_not_heard() -> None:
    done = read_outcome(Outcome(branch="0", phase=CANCEL, kind=DONE))
    assert done is not None
    assert (done.phase, done.kind, done.text, done.retry_after) == (Decision.CANCEL, OutcomeKind.DONE, "", None)
    nobody_s = transaction_pb2.OutcomeKind.ValueType(99)
    for strange in (Outcome(phase=TRY, kind=DONE), Outcome(phase=CONFIRM), Outcome(phase=CONFIRM, kind=nobody_s)):
        assert read_outcome(strange) is None
