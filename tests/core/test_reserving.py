"""From begin to decision: when a Try is repeated, when Confirm is decided, and when Cancel."""

from __future__ import annotations

import pytest

from tcc_server.core.decide import next_wake
from tcc_server.core.messages import CancelAsked, ConfirmAsked, EnlistAsked, Resumed, SendTry, TimerFired, Write
from tcc_server.core.model import CancelReason, Decision, Reservation, Settlement, State
from tests.core.bench import Bench, ask


def test_a_plan_sends_every_try_at_once_after_its_begin_is_written() -> None:
    bench = Bench("a", "b")
    assert bench.tries() == [("a", 1), ("b", 1)]
    assert bench.writes == 1


def test_confirm_is_decided_by_the_last_reservation_and_not_before() -> None:
    bench = Bench("a", "b")
    first = bench.answer_try("b")
    assert (bench.tx.state, first.write) == (State.TRYING, Write.NOTHING)
    last = bench.answer_try("a")
    assert (bench.tx.state, last.write) == (State.CONFIRMING, Write.BODY)
    assert bench.commands() == ["a", "b"]


def test_answers_that_come_together_are_answered_together() -> None:
    bench = Bench("a", "b")
    answer = bench.signal(bench.tried("b"), bench.tried("a"))
    assert (answer.answered, answer.write, bench.tx.state) == (2, Write.BODY, State.CONFIRMING)
    assert [branch.try_attempts for branch in bench.tx.branches] == [1, 1]
    assert bench.commands() == ["a", "b"]


def test_what_comes_after_an_answer_that_must_be_written_waits_for_it() -> None:
    bench = Bench("a", "b")
    answer = bench.signal(bench.tried("a", "FAILED_PRECONDITION", marked=True), bench.tried("b"))
    assert (answer.answered, bench.tx.state) == (1, State.CANCELLING)
    assert bench.tx.branches[1].reservation is Reservation.PENDING


def test_an_answer_says_when_it_wants_to_be_woken() -> None:
    bench = Bench("a", timeout=30.0)
    assert bench.answer_try("a", "UNAVAILABLE").wake == next_wake(bench.tx, bench.policy)
    assert bench.answer_try("a").wake == bench.tx.branches[0].due


def test_a_marked_refusal_cancels_the_others_and_owes_the_refuser_nothing() -> None:
    bench = Bench("a", "b", "c")
    bench.answer_try("a")
    bench.answer_try("b", "FAILED_PRECONDITION", marked=True)
    assert bench.tx.decision is Decision.CANCEL
    assert bench.tx.cancel_reason is CancelReason.REFUSED
    assert bench.commands() == ["a", "c"]
    assert bench.tx.branches[1].settlement is Settlement.NOTHING_OWED


def test_an_unmarked_refusal_is_cancelled_too() -> None:
    bench = Bench("a", "b")
    bench.answer_try("a", "FAILED_PRECONDITION")
    assert bench.commands() == ["a", "b"]


def test_a_first_attempt_that_was_lost_and_then_overloaded_is_unknown_and_gets_a_cancel() -> None:
    bench = Bench("a", timeout=3.0)
    bench.answer_try("a", "UNAVAILABLE")
    bench.pass_time(0.5)
    bench.answer_try("a", "RESOURCE_EXHAUSTED")
    bench.pass_time(10)
    assert bench.tx.decision is Decision.CANCEL
    assert bench.commands()[0] == "a"


def test_an_unknown_answer_is_repeated_with_the_same_ids_until_the_deadline_and_then_cancelled() -> None:
    bench = Bench("a", timeout=5.0)
    while bench.tx.state is State.TRYING:
        bench.answer_try("a", "UNAVAILABLE")
        bench.pass_time(1.0)
    attempts = [attempt for _, attempt in bench.tries()]
    assert attempts == list(range(1, len(attempts) + 1))
    assert len(attempts) > 3
    assert bench.tx.cancel_reason is CancelReason.DEADLINE
    assert bench.mono <= 100 + 5.0 + 1.0


def test_a_retry_info_is_honoured() -> None:
    bench = Bench("a")
    bench.answer_try("a", "RESOURCE_EXHAUSTED", retry_after=4.0)
    bench.pass_time(3.9)
    assert len(bench.tries()) == 1
    bench.pass_time(0.2)
    assert len(bench.tries()) == 2


def test_a_retry_info_beyond_the_deadline_cancels_at_once() -> None:
    bench = Bench("a", timeout=5.0)
    bench.answer_try("a", "RESOURCE_EXHAUSTED", retry_after=6.0)
    assert bench.tx.cancel_reason is CancelReason.DEADLINE


def test_a_try_that_never_answers_is_cancelled_at_its_own_timeout() -> None:
    bench = Bench(ask("a", try_timeout=2.0), "b")
    bench.answer_try("b")
    bench.pass_time(1.9)
    assert bench.tx.state is State.TRYING
    bench.pass_time(0.2)
    assert bench.tx.cancel_reason is CancelReason.DEADLINE
    assert bench.commands() == ["a", "b"]


def test_an_answer_after_the_decision_changes_nothing() -> None:
    bench = Bench("a", "b")
    bench.answer_try("a", "NOT_FOUND", marked=True)
    before = bench.tx
    bench.answer_try("b")
    assert bench.tx == before


def test_an_attempt_is_never_longer_than_what_is_left() -> None:
    bench = Bench(ask("a", try_timeout=3.0), "b", timeout=20.0)
    first, second = (effect for effect in bench.effects if isinstance(effect, SendTry))
    assert (first.timeout, second.timeout) == (3.0, 10.0)


def test_confirm_is_not_decided_when_a_reservation_would_expire_too_soon() -> None:
    bench = Bench("a", "b")
    bench.answer_try("a", expires_in=5.0)
    bench.pass_time(4.5)
    bench.answer_try("b")
    assert bench.tx.cancel_reason is CancelReason.EXPIRY
    assert bench.commands() == ["a", "b"]


def test_confirm_is_decided_when_the_margin_is_kept() -> None:
    bench = Bench("a", "b")
    bench.answer_try("a", expires_in=5.0)
    bench.pass_time(3.5)
    bench.answer_try("b")
    assert bench.tx.decision is Decision.CONFIRM


def test_an_interactive_transaction_writes_a_branch_before_its_try_leaves() -> None:
    bench = Bench(interactive=True)
    answer = bench.signal(EnlistAsked(ask("a")))
    assert answer.write is Write.BODY
    assert bench.tries() == [("a", 1)]


def test_an_interactive_confirm_waits_for_the_tries_in_flight() -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a")))
    bench.signal(ConfirmAsked())
    assert bench.tx.state is State.TRYING
    bench.answer_try("a")
    assert bench.tx.decision is Decision.CONFIRM


def test_nobody_joins_once_confirm_was_asked() -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a")))
    bench.signal(ConfirmAsked())
    bench.signal(EnlistAsked(ask("late")))
    assert bench.tx.find("late") is None


def test_an_interactive_transaction_goes_on_without_a_branch_that_marked_its_refusal() -> None:
    bench = Bench(interactive=True)
    for step in ("a", "b"):
        bench.signal(EnlistAsked(ask(step)))
    bench.answer_try("a", "FAILED_PRECONDITION", marked=True)
    bench.answer_try("b")
    bench.signal(ConfirmAsked())
    assert bench.tx.decision is Decision.CONFIRM
    assert bench.commands() == ["b"]


@pytest.mark.parametrize("code", ["FAILED_PRECONDITION", "NOT_FOUND"])
def test_an_interactive_confirm_over_an_unmarked_refusal_is_a_cancel(code: str) -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a")))
    bench.answer_try("a", code)
    bench.signal(ConfirmAsked())
    assert bench.tx.decision is Decision.CANCEL


def test_an_interactive_confirm_over_a_try_that_was_given_up_is_a_cancel() -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a", try_timeout=1.0)))
    bench.pass_time(1.5)
    assert bench.tx.state is State.TRYING
    assert bench.tx.branches[0].reservation is Reservation.UNKNOWN
    bench.signal(ConfirmAsked())
    assert bench.tx.decision is Decision.CANCEL
    assert bench.commands() == ["a"]


def test_a_client_that_vanished_is_cancelled_at_the_deadline() -> None:
    bench = Bench(interactive=True, timeout=30.0)
    bench.signal(EnlistAsked(ask("a")))
    bench.answer_try("a")
    bench.pass_time(31)
    assert bench.tx.cancel_reason is CancelReason.DEADLINE


@pytest.mark.parametrize("signal", [ConfirmAsked(), CancelAsked(), TimerFired()])
def test_a_decision_is_never_taken_twice(signal: ConfirmAsked | CancelAsked | TimerFired) -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a")))
    bench.answer_try("a")
    bench.signal(ConfirmAsked())
    decided_at = bench.tx.decided_at
    bench.mono += 1
    bench.signal(signal)
    assert (bench.tx.decision, bench.tx.decided_at) == (Decision.CONFIRM, decided_at)


def test_an_interactive_transaction_without_branches_confirms_and_is_done() -> None:
    bench = Bench(interactive=True)
    bench.signal(ConfirmAsked())
    assert bench.tx.state is State.CONFIRMED


def test_a_new_owner_repeats_the_tries_that_have_no_reply() -> None:
    bench = Bench("a", "b")
    bench.answer_try("a")
    bench.signal(Resumed())
    assert bench.tries()[2:] == [("b", 2)]


def test_a_new_owner_that_comes_after_the_deadline_cancels() -> None:
    bench = Bench("a", timeout=5.0)
    bench.mono += 6
    bench.signal(Resumed())
    assert bench.tx.cancel_reason is CancelReason.DEADLINE


@pytest.mark.parametrize(
    ("code", "marked"), [("FAILED_PRECONDITION", True), ("FAILED_PRECONDITION", False), ("NOT_FOUND", False)]
)
def test_an_interactive_client_hears_of_a_refusal_only_once_it_is_written(code: str, marked: bool) -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a")))
    assert bench.answer_try("a", code, marked=marked).write is Write.BODY


def test_a_reservation_of_an_interactive_transaction_needs_no_write_of_its_own() -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a")))
    assert bench.answer_try("a").write is Write.NOTHING


def test_a_try_that_an_interactive_client_was_told_is_unknown_stays_unknown_after_a_restart() -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a")))
    assert bench.answer_try("a", "RESOURCE_EXHAUSTED", retry_after=60.0).write is Write.BODY
    bench.signal(Resumed())
    assert bench.tries() == [("a", 1)]
    bench.signal(ConfirmAsked())
    assert bench.tx.decision is Decision.CANCEL


def test_an_expiry_is_judged_by_the_monotonic_clock() -> None:
    bench = Bench("a", "b")
    bench.answer_try("a", expires_in=5.0)
    bench.pass_time(15)
    bench.wall_shift = -3600.0
    bench.answer_try("b")
    assert bench.tx.cancel_reason is CancelReason.EXPIRY


@pytest.mark.parametrize("interactive", [False, True])
def test_an_answer_that_is_processed_after_the_deadline_confirms_nothing(interactive: bool) -> None:
    bench = Bench(interactive=True) if interactive else Bench("a")
    if interactive:
        bench.signal(EnlistAsked(ask("a")))
        bench.signal(ConfirmAsked())
    bench.mono += 600  # a pause, in which no timer fired
    bench.answer_try("a")
    assert bench.tx.cancel_reason is CancelReason.DEADLINE


def test_a_confirm_that_is_processed_after_the_deadline_cancels() -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a")))
    bench.answer_try("a")
    bench.mono += 600
    bench.signal(ConfirmAsked())
    assert bench.tx.cancel_reason is CancelReason.DEADLINE
