"""Between a transaction and its row: nothing is lost, and a wall clock that was set back makes nothing last longer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from tcc_server.core.messages import Answer, EnlistAsked, Write
from tcc_server.core.model import (
    Ask,
    Branch,
    CancelReason,
    HistoryEntry,
    Key,
    Methods,
    Moment,
    OutcomeKind,
    Reservation,
    Settlement,
    State,
    Status,
    Transaction,
)
from tcc_server.log.codec import decode, encode
from tcc_server.log.seam import Row
from tcc_server.log.v1 import record_pb2 as pb
from tests.core.bench import WALL, Bench, ask

AT = Moment(100.0, WALL + 100.0)


def stored(tx: Transaction, at: Moment = AT) -> Transaction:
    """The transaction as its row gives it back."""
    return decode(row_of(tx), at)


def row_of(tx: Transaction) -> Row:
    """The transaction's whole row."""
    return encode(Answer(tx, (), (), Write.BODY, AT, answered=1, wake=None), write_id=bytes(16))


def timeless(tx: Transaction) -> Transaction:
    """Without what only the memory knows: what is in flight, and when it is due."""
    branches = tuple(
        replace(b, try_in_flight=0, try_due=None, due=None, waiting=False, unanswered=0) for b in tx.branches
    )
    return replace(tx, version=0, branches=branches, confirm_wanted=False, unrecorded=False)


def test_a_transaction_comes_back_as_it_was() -> None:
    bench = Bench(ask("a", try_timeout=3.0), "b", "c")
    bench.answer_try("a", expires_in=50.0)
    bench.answer_try("b", "FAILED_PRECONDITION", marked=True)
    bench.outcome("a", OutcomeKind.NO_TRY)
    bench.outcome("c")
    assert timeless(stored(bench.tx)) == timeless(bench.tx)


def test_a_try_that_was_given_up_comes_back_so() -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a")))
    bench.answer_try("a", "RESOURCE_EXHAUSTED", retry_after=60.0)
    assert stored(bench.tx).branches[0].given_up


@pytest.mark.parametrize(("passed", "left"), [(10.0, 20.0), (0.0, 30.0), (40.0, -10.0), (-86_400.0, 30.0)])
def test_what_is_left_of_a_deadline_is_never_more_than_there_was(passed: float, left: float) -> None:
    tx = Bench("a", timeout=30.0).tx
    found = stored(tx, Moment(7.0, WALL + 100.0 + passed))
    assert found.deadline - 7.0 == pytest.approx(left)
    assert found.branches[0].try_deadline - 7.0 == pytest.approx(left)


def test_what_is_left_of_a_reservation_is_never_more_than_there_was() -> None:
    bench = Bench("a", "b")
    bench.answer_try("a", expires_in=5.0)
    expires = stored(bench.tx, Moment(7.0, WALL - 86_400.0)).branches[0].expires
    assert expires is not None
    assert expires - 7.0 == pytest.approx(5.0)


def test_a_decision_is_never_in_the_readers_future() -> None:
    bench = Bench("a")
    bench.answer_try("a")
    assert stored(bench.tx, Moment(7.0, WALL - 86_400.0)).decided == 7.0


def test_a_row_without_its_body_tells_all_but_the_branches() -> None:
    tx = Bench("a", interactive=False, timeout=30.0).tx
    row = replace(row_of(tx), body=None)
    found = decode(row, AT)
    assert (found.deadline_at, found.interactive, found.state, found.branches) == (tx.deadline_at, False, tx.state, ())


def test_a_decided_row_without_its_body_can_be_read() -> None:
    bench = Bench("a")
    bench.answer_try("a")
    row = replace(row_of(bench.tx), body=None)
    assert decode(row, AT).decision is bench.tx.decision


# The bytes are put together by hand: what they say is what a message with these fields would say.

_texts = st.text(max_size=200)
_bytes = st.binary(max_size=300)
_times = st.floats(min_value=0.0, max_value=4e9)
_counts = st.integers(min_value=0, max_value=40_000)
_asks = st.builds(
    Ask,
    _texts,
    _texts,
    st.builds(Methods, _texts, _texts, _texts),
    _bytes,
    _bytes,
    st.none() | _times,
    st.lists(st.tuples(_texts, _bytes), max_size=2).map(tuple),
)
_branches = st.builds(
    Branch,
    _asks,
    reservation=st.sampled_from(Reservation),
    status=st.none() | st.builds(Status, st.integers(0, 16), _texts, _bytes),
    reply=_bytes,
    expires_at=st.none() | _times,
    given_up=st.booleans(),
    try_attempts=_counts,
    try_sent_at=_times,
    try_answered_at=_times,
    settlement=st.sampled_from(Settlement),
    outcome=st.sampled_from(OutcomeKind),
    attempts=_counts,
    failures=_counts,
    last_error=_texts,
    sent_at=_times,
    settled_at=_times,
)
_transactions = st.builds(
    Transaction,
    st.just(Key("default", "g")),
    _texts,
    st.booleans(),
    st.sampled_from(State),
    _times,
    _times,
    _times,
    traceparent=_texts,
    tracestate=_texts,
    branches=st.lists(_branches, max_size=3).map(tuple),
    cancel_reason=st.sampled_from(CancelReason),
    decided_at=st.none() | _times,
    decided_text=_texts,
    last_error=_texts,
    history=st.lists(st.builds(HistoryEntry, _times, _texts, _texts, _texts), max_size=2).map(tuple),
)


@given(_transactions)
def test_the_body_says_what_its_message_would_say(tx: Transaction) -> None:
    body = pb.Body(
        interactive=tx.interactive, deadline=tx.deadline_at, traceparent=tx.traceparent, tracestate=tx.tracestate
    )
    for branch in tx.branches:
        ask = branch.ask
        stored = body.branches.add(
            step=ask.step,
            participant=ask.participant,
            try_method=ask.methods.try_method,
            confirm_method=ask.methods.confirm_method,
            cancel_method=ask.methods.cancel_method,
            request=ask.request,
            request_hash=ask.request_hash,
            try_attempts=branch.try_attempts,
            try_sent_at=branch.try_sent_at,
            try_timeout=ask.try_timeout or 0.0,
            metadata=[pb.Metadata(key=key, value=value) for key, value in ask.metadata],
        )
        if branch.status is not None:
            stored.reservation = pb.Reservation.ValueType(branch.reservation)
            stored.code = branch.status.code
            stored.message = branch.status.message
            stored.details = branch.status.details
            stored.reply = branch.reply
            stored.try_answered_at = branch.try_answered_at
            stored.given_up = branch.given_up
            stored.expires_at = branch.expires_at or 0.0
    assert pb.Body.FromString(row_of(tx).body or b"") == body


@given(_transactions)
def test_the_progress_says_what_its_message_would_say(tx: Transaction) -> None:
    progress = pb.Progress(
        cancel_reason=int(tx.cancel_reason),
        last_error=tx.last_error,
        decided_text=tx.decided_text,
        interactive=tx.interactive,
        deadline=tx.deadline_at,
        traceparent=tx.traceparent,
        commands=[
            pb.Command(
                settlement=pb.Settlement.ValueType(branch.settlement),
                attempts=branch.attempts,
                sent_at=branch.sent_at,
                settled_at=branch.settled_at,
                outcome=branch.outcome,
                failures=branch.failures,
                last_error=branch.last_error,
            )
            for branch in (tx.branches if tx.decided_at is not None else ())
        ],
        history=[pb.HistoryEntry(at=at.at, what=at.what, who=at.who, reason=at.reason) for at in tx.history],
    )
    assert pb.Progress.FromString(row_of(tx).progress) == progress
