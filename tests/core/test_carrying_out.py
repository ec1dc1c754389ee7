"""From decision to end: what is owed is repeated until settled, on two clocks, each branch on its own."""

from __future__ import annotations

import pytest

from tcc_server.core.messages import OutcomeArrived, ParticipantSeen, Resumed, SendCommand, TimerFired, Write
from tcc_server.core.model import Decision, OutcomeKind, Settlement, State
from tcc_server.core.policy import Policy
from tests.core.bench import Bench, ask


def confirming(*steps: str, policy: Policy | None = None) -> Bench:
    bench = Bench(*steps, policy=policy)
    for step in steps:
        bench.answer_try(step)
    assert bench.tx.state is State.CONFIRMING
    return bench


def test_three_writes_carry_a_transaction_that_goes_well() -> None:
    bench = confirming("a", "b")
    bench.outcome("a")
    bench.outcome("b")
    assert bench.tx.state is State.CONFIRMED
    assert bench.writes == 3


def test_a_command_without_an_answer_is_sent_again_after_10_20_40_60_60_seconds() -> None:
    bench = confirming("a")
    times = []
    sent = len(bench.commands())
    for _ in range(2500):
        bench.pass_time(0.1)
        if len(bench.commands()) > sent:
            sent = len(bench.commands())
            times.append(round(bench.mono - 100))
    assert times[:5] == [10, 30, 70, 130, 190]


def test_a_failed_outcome_is_retried_sooner_than_an_unanswered_one_and_backs_off_to_a_cap() -> None:
    bench = confirming("a")
    waits = []
    for _ in range(12):
        before = len(bench.commands())
        start = bench.mono
        bench.outcome("a", OutcomeKind.RETRY)
        while len(bench.commands()) == before:
            bench.pass_time(0.01)
        waits.append(bench.mono - start)
    assert waits[0] <= 0.1
    assert waits[3] > waits[0]
    assert max(waits) <= 10.0


def test_a_hint_is_honoured_and_a_busy_branch_never_raises_attention() -> None:
    bench = confirming("a")
    for _ in range(50):
        bench.outcome("a", OutcomeKind.BUSY, retry_after=2.0)
        bench.pass_time(1.9)
        sent = len(bench.commands())
        bench.pass_time(0.2)
        assert len(bench.commands()) == sent + 1
    assert not bench.tx.attention


def test_a_hint_of_zero_makes_no_hot_loop() -> None:
    bench = confirming("a")
    bench.outcome("a", OutcomeKind.BUSY, retry_after=0.0)
    bench.pass_time(0.04)
    assert bench.commands() == ["a"]


def test_ten_failed_outcomes_raise_attention_with_the_last_error_and_the_retries_go_on() -> None:
    bench = confirming("a")
    flags = []
    for _ in range(10):
        bench.outcome("a", OutcomeKind.RETRY)
        flags.append(bench.tx.attention)
        bench.pass_time(10)
    assert flags == [False] * 9 + [True]
    assert "RETRY" in bench.tx.last_error
    sent = len(bench.commands())
    bench.pass_time(10)
    assert len(bench.commands()) > sent


def test_unanswered_sends_raise_attention_by_age_and_not_by_number() -> None:
    bench = confirming("a")
    flags = []
    for wait in (299, 2):
        bench.pass_time(wait)
        flags.append(bench.tx.attention)
    assert flags == [False, True]


def test_no_try_raises_attention_at_once_and_is_retried_slowly() -> None:
    bench = confirming("a")
    bench.outcome("a", OutcomeKind.NO_TRY)
    assert bench.tx.attention
    bench.pass_time(59)
    assert bench.commands() == ["a"]
    bench.pass_time(2)
    assert bench.commands() == ["a", "a"]


def test_a_contradiction_is_mixed_once_every_branch_is_settled() -> None:
    bench = confirming("a", "b")
    bench.outcome("a", OutcomeKind.CONTRADICTED)
    assert bench.tx.state is State.CONFIRMING
    bench.outcome("b")
    assert (bench.tx.state, bench.tx.attention, bench.tx.decision) == (State.MIXED, True, Decision.CONFIRM)


def test_an_outcome_of_the_other_phase_does_not_count() -> None:
    bench = confirming("a")
    before = bench.tx
    bench.outcome("a", phase=Decision.CANCEL)
    assert bench.tx == before


def test_a_late_done_of_any_attempt_counts() -> None:
    bench = confirming("a")
    bench.pass_time(200)
    bench.outcome("a")
    assert bench.tx.state is State.CONFIRMED


def test_a_sick_branch_does_not_delay_another() -> None:
    bench = confirming("sick", "well")
    bench.outcome("sick", OutcomeKind.RETRY)
    bench.outcome("well")
    bench.pass_time(30)
    assert bench.commands().count("well") == 1
    assert bench.commands().count("sick") > 1


def test_an_outcome_is_written_by_itself_once_the_transaction_is_open_for_a_second() -> None:
    bench = confirming("a", "b", "c")
    assert bench.outcome("a").write is Write.NOTHING
    writes = bench.writes
    bench.pass_time(1.1)
    assert bench.writes == writes + 1
    assert bench.outcome("b").write is Write.PROGRESS


def test_outcomes_that_come_together_are_written_together() -> None:
    bench = confirming("a", "b", "c", "d")
    bench.pass_time(1.1)
    done = [OutcomeArrived(step, Decision.CONFIRM, OutcomeKind.DONE) for step in "abc"]
    answer = bench.signal(*done)
    assert (answer.answered, answer.write) == (3, Write.PROGRESS)
    assert [branch.settlement.name for branch in bench.tx.branches] == ["DONE", "DONE", "DONE", "OPEN"]


def test_an_outcome_that_comes_after_the_last_one_changes_nothing_in_the_same_write() -> None:
    bench = confirming("a")
    done = OutcomeArrived("a", Decision.CONFIRM, OutcomeKind.DONE)
    again = OutcomeArrived("a", Decision.CONFIRM, OutcomeKind.CONTRADICTED)
    answer = bench.signal(done, again)
    assert (answer.answered, answer.write) == (2, Write.PROGRESS)
    assert (bench.tx.state, bench.tx.branches[0].settlement) == (State.CONFIRMED, Settlement.DONE)


def test_what_comes_after_an_outcome_that_is_to_be_written_waits_unless_it_is_an_outcome() -> None:
    bench = confirming("a", "b")
    bench.pass_time(1.1)
    one, other = (OutcomeArrived(step, Decision.CONFIRM, OutcomeKind.DONE) for step in "ab")
    assert bench.signal(one, TimerFired(), other).answered == 1


def test_an_outcome_waits_for_what_a_timer_has_to_write() -> None:
    bench = confirming("a", "b")
    bench.outcome("a")
    bench.mono += 1.1  # the timer is late, and meets the next outcome
    answer = bench.signal(TimerFired(), OutcomeArrived("b", Decision.CONFIRM, OutcomeKind.DONE))
    assert (answer.answered, answer.write) == (1, Write.PROGRESS)


def test_a_participant_that_is_seen_again_gets_its_unanswered_commands_within_a_second() -> None:
    bench = Bench(ask("a", participant="x"), ask("b", participant="y"))
    bench.answer_try("a")
    bench.answer_try("b")
    bench.pass_time(35)
    sent = bench.commands().count("a"), bench.commands().count("b")
    bench.signal(ParticipantSeen("x"))
    bench.pass_time(1.0)
    assert (bench.commands().count("a"), bench.commands().count("b")) == (sent[0] + 1, sent[1])


@pytest.mark.parametrize("answered", [True, False])
def test_a_new_owner_sends_again_what_is_not_settled(answered: bool) -> None:
    bench = confirming("a", "b")
    if answered:
        bench.outcome("a")
    answer = bench.signal(Resumed())
    steps = [bench.tx.branches[e.position].ask.step for e in answer.effects if isinstance(e, SendCommand)]
    assert steps == (["b"] if answered else ["a", "b"])


def test_a_busy_branch_without_a_hint_is_asked_at_a_pace() -> None:
    bench = confirming("a")
    for _ in range(200):
        if bench.mono >= 110:
            break
        sent = len(bench.commands())
        bench.outcome("a", OutcomeKind.BUSY)
        while len(bench.commands()) == sent:
            bench.pass_time(0.1)
    assert len(bench.commands()) <= 25


def test_a_participant_that_is_not_there_raises_attention_by_age_alone() -> None:
    bench = confirming("a")
    flags = []
    while bench.mono < 100 + 320:
        bench.outcome("a", OutcomeKind.RETRY, unreachable=True)
        bench.pass_time(12)
        flags.append((bench.mono, bench.tx.attention))
    assert not any(flag for at, flag in flags if at < 399)
    assert flags[-1][1]
    assert bench.tx.branches[0].failures == 0


def test_attention_ends_with_the_transaction_and_stays_in_its_history() -> None:
    bench = confirming("a")
    bench.outcome("a", OutcomeKind.NO_TRY)
    bench.outcome("a")
    assert (bench.tx.state, bench.tx.attention) == (State.CONFIRMED, False)
    assert "attention" in [entry.what for entry in bench.tx.history]


def test_a_contradiction_is_told_also_where_attention_was_raised_before() -> None:
    bench = confirming("a", "b")
    bench.outcome("a", OutcomeKind.NO_TRY)
    bench.outcome("a", OutcomeKind.CONTRADICTED)
    bench.outcome("b")
    assert (bench.tx.state, bench.tx.attention) == (State.MIXED, True)
    assert "contradicts" in bench.tx.last_error
    assert [entry.what for entry in bench.tx.history] == ["attention", "contradicted"]
