"""What signals mean: the events to record and the effects to perform. The second and last of the core's functions.

Laws kept here: Confirm is decided only when no branch stands in its way and no reservation expires too soon; nothing is
decided twice; a branch joins only before the decision; an outcome counts only if its phase is the decision's; what is
owed is repeated until it is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tcc_server.core import rules
from tcc_server.core.evolve import Draft
from tcc_server.core.messages import (
    Answer,
    CancelAsked,
    Circumstance,
    CommandDue,
    CommandSent,
    ConfirmAsked,
    ConfirmWanted,
    Decided,
    DropTries,
    Effect,
    EnlistAsked,
    Enlisted,
    Event,
    Finished,
    Flagged,
    Noted,
    OutcomeArrived,
    OutcomeNoted,
    ParticipantSeen,
    Resumed,
    SendCommand,
    SendTry,
    Settled,
    Signal,
    TimerFired,
    TryAnswered,
    TryDue,
    TryNoted,
    TrySent,
    Write,
)
from tcc_server.core.model import (
    Ask,
    Branch,
    CancelReason,
    Decision,
    HistoryEntry,
    Key,
    Moment,
    OutcomeKind,
    Reservation,
    Settlement,
    State,
    Status,
    Transaction,
)
from tcc_server.core.policy import Policy

_UNDECIDED_TRY = (Reservation.PENDING, Reservation.UNKNOWN)
_BUSY_WAIT = 0.5
"""Seconds before a busy branch is asked again, where it gives no hint."""
_STANDS_IN_THE_WAY = (Reservation.REFUSED, Reservation.DECLINED, Reservation.UNKNOWN)


def begin(
    key: Key,
    name: str,
    asks: tuple[Ask, ...] | None,
    timeout: float,
    trace: tuple[str, str],
    circumstance: Circumstance,
    policy: Policy,
) -> Answer:
    """A new transaction: a plan with its branches, or an interactive one (`asks` is None).

    Args:
        timeout: seconds until its deadline.
        trace: W3C traceparent and tracestate of the caller.
    """
    at = circumstance.at
    deadline = at.mono + timeout
    branches = []
    effects: list[Effect] = []
    for position, ask in enumerate(asks or ()):
        until = _try_deadline(ask, at.mono, deadline)
        branches.append(Branch(ask, try_deadline=until, try_attempts=1, try_in_flight=1, try_sent_at=at.wall))
        effects.append(SendTry(position, 1, min(policy.try_attempt_timeout, until - at.mono)))
    tx = Transaction(
        key=key,
        name=name,
        interactive=asks is None,
        state=State.TRYING,
        begun_at=at.wall,
        deadline_at=at.wall + timeout,
        deadline=deadline,
        traceparent=trace[0],
        tracestate=trace[1],
        version=1,
        branches=tuple(branches),
    )
    return Answer(tx, (), effects, Write.BODY, at, 0, next_wake(tx, policy))


def decide(tx: Transaction, signals: Iterable[Signal], circumstance: Circumstance, policy: Policy) -> Answer:
    """Answer signals in their order, up to the first whose answer must be written, which the others must wait for.

    Outcomes that come together are written together: none of them has an effect that could leave too early, and one by
    one each would wait for the write before. A signal that means nothing now is answered with nothing.
    """
    turn = _Turn(tx, circumstance, policy)
    answered = 0
    before: type[Signal] | None = None
    for signal in signals:
        kind = type(signal)
        if turn.write and (kind is not OutcomeArrived or before is not OutcomeArrived):
            break
        _ANSWERS[kind](turn, signal)
        answered += 1
        before = kind
    return turn.answer(answered)


def next_wake(tx: Transaction, policy: Policy) -> float | None:
    """When a TimerFired is wanted, on the monotonic clock; None: never."""
    if tx.state.is_final:
        return None
    wake: float | None = None
    if tx.state is State.TRYING:
        wake = tx.deadline
        for branch in tx.branches:
            if branch.try_due is not None:
                wake = min(wake, branch.try_due)
            if is_trying(branch):
                wake = min(wake, branch.try_deadline)
        return wake
    for branch in tx.branches:
        if branch.due is not None and (wake is None or branch.due < wake):
            wake = branch.due
    if not tx.attention:
        wake = _earlier(wake, tx.decided + policy.attention_age)
    if tx.unrecorded:
        wake = _earlier(wake, tx.decided + policy.record_after)
    return wake


def _earlier(one: float | None, other: float) -> float:
    return other if one is None or other < one else one


def is_trying(branch: Branch) -> bool:
    """Whether an answer to the branch's Try may still come or be asked for."""
    return branch.reservation in _UNDECIDED_TRY and (branch.try_in_flight > 0 or branch.try_due is not None)


def _try_deadline(ask: Ask, now: float, deadline: float) -> float:
    return deadline if ask.try_timeout is None else min(deadline, now + ask.try_timeout)


class _Turn:
    """One answer in the making: the transaction as it stands, and what was said so far.

    Each event changes `tx` and the branches in it: whoever needs something of before must take it before `record`.
    """

    __slots__ = ("_dice", "_draft", "_replica", "at", "effects", "events", "policy", "tx", "write")

    def __init__(self, tx: Transaction, circumstance: Circumstance, policy: Policy) -> None:
        self.tx = tx
        self._draft: Draft | None = None
        self.policy = policy
        self.events: list[Event] = []
        self.effects: list[Effect] = []
        self.write = Write.NOTHING
        self.at, self._dice, self._replica = circumstance

    def answer(self, answered: int) -> Answer:
        if self.write:
            after = self._drafted().tx
            after.unrecorded = False
            after.version += 1
        tx = self.tx
        return Answer(tx, self.events, self.effects, self.write, self.at, answered, next_wake(tx, self.policy))

    def record(self, event: Event, write: Write = Write.NOTHING) -> None:
        (self._draft or self._drafted()).apply(event)
        self.events.append(event)
        if write > self.write:
            self.write = write

    def _drafted(self) -> Draft:
        if self._draft is None:
            self._draft = Draft(self.tx)
            self.tx = self._draft.tx
        return self._draft

    def dice(self, position: int) -> float:
        # One throw for many branches: multiples of an irrational number spread evenly.
        return (self._dice + position * 0.6180339887498949) % 1.0

    # Reserving

    def send_try(self, position: int) -> None:
        self.record(TrySent(position, self.at.wall))
        branch = self.tx.branches[position]
        timeout = min(self.policy.try_attempt_timeout, branch.try_deadline - self.at.mono)
        self.effects.append(SendTry(position, branch.try_attempts, timeout))

    def enlist(self, signal: EnlistAsked) -> None:
        ask = signal.ask
        if self.tx.state is not State.TRYING or self.tx.confirm_wanted or self.tx.find(ask.step) is not None:
            return
        self.record(Enlisted(ask, _try_deadline(ask, self.at.mono, self.tx.deadline)), Write.BODY)
        self.send_try(len(self.tx.branches) - 1)

    def try_answered(self, signal: TryAnswered) -> None:
        position = self.tx.find(signal.step)
        if position is None or self.tx.state is not State.TRYING:
            return
        if self._is_too_late():
            return
        branch = self.tx.branches[position]
        if branch.try_in_flight != signal.attempt or branch.reservation not in _UNDECIDED_TRY:
            return
        reservation = rules.try_means(signal.status.code, marked=signal.marked)
        due = None
        if reservation is Reservation.UNKNOWN:
            wait = self.policy.try_backoff(branch.try_attempts, self.dice(position))
            due = self.at.mono + max(wait, signal.retry_after or 0.0)
            if due >= branch.try_deadline:
                due = None  # no attempt can follow, so nothing more can be learned
        expires = None
        if reservation is Reservation.RESERVED and signal.expires_in is not None:
            sent = signal.sent
            expires = Moment(sent.mono + signal.expires_in, sent.wall + signal.expires_in)
        noted = TryNoted(position, reservation, signal.status, signal.reply, expires, self.at.wall, due)
        self.record(noted, self._told(reservation, due))
        self._decide_if_known(position)

    def _told(self, reservation: Reservation, due: float | None) -> Write:
        """An interactive client that hears of a refusal must never find the branch confirmed: it is written first."""
        is_over = reservation in (Reservation.REFUSED, Reservation.DECLINED) or (
            reservation is Reservation.UNKNOWN and due is None
        )
        return Write.BODY if self.tx.interactive and is_over else Write.NOTHING

    def _decide_if_known(self, position: int) -> None:
        tx = self.tx
        branch = tx.branches[position]
        if tx.interactive:
            if tx.confirm_wanted and not any(map(is_trying, tx.branches)):
                self._decide_confirm()
        elif branch.reservation in (Reservation.REFUSED, Reservation.DECLINED):
            self._decide(Decision.CANCEL, CancelReason.REFUSED)
        elif branch.reservation is Reservation.UNKNOWN and branch.try_due is None:
            self._decide(Decision.CANCEL, CancelReason.DEADLINE)
        else:
            for other in tx.branches:
                if other.reservation is not Reservation.RESERVED:
                    return
            self._decide_confirm()

    # Deciding

    def confirm(self, _: ConfirmAsked) -> None:
        if self.tx.state is not State.TRYING or not self.tx.interactive or self._is_too_late():
            return
        if any(map(is_trying, self.tx.branches)):
            if not self.tx.confirm_wanted:
                self.record(ConfirmWanted())
            return
        self._decide_confirm()

    def cancel(self, signal: CancelAsked) -> None:
        if self.tx.state is State.TRYING:
            self._decide(Decision.CANCEL, CancelReason.CLIENT, signal.reason)

    def _decide_confirm(self) -> None:
        reservations = {branch.reservation for branch in self.tx.branches}
        if not all(map(rules.lets_confirm, reservations)):
            refused = Reservation.DECLINED in reservations
            self._decide(Decision.CANCEL, CancelReason.REFUSED if refused else CancelReason.DEADLINE)
            return
        expiries = [branch.expires for branch in self.tx.branches if branch.expires is not None]
        if expiries and self.at.mono + self.policy.expiry_margin >= min(expiries):
            self._decide(Decision.CANCEL, CancelReason.EXPIRY, "a reservation would have expired before its Confirm")
            return
        self._decide(Decision.CONFIRM, CancelReason.NONE)

    def _decide(self, decision: Decision, reason: CancelReason, text: str = "") -> None:
        due = self.at.mono + self.policy.answer_wait(0)
        self.record(Decided(decision, reason, self.at, text or self._why(reason), due), Write.BODY)
        if decision is Decision.CANCEL:
            self.effects = [DropTries()]  # a Try that has not left stays here
        for position, branch in enumerate(self.tx.branches):
            if branch.settlement is Settlement.OPEN:
                self.effects.append(SendCommand(position, branch.attempts))
        self._finish_if_settled()

    def _why(self, reason: CancelReason) -> str:
        for branch in self.tx.branches:
            status = branch.status
            if status is not None and branch.reservation in _STANDS_IN_THE_WAY:
                verb = "refused" if branch.reservation is not Reservation.UNKNOWN else "did not answer"
                return f"step {branch.ask.step} at {branch.ask.participant} {verb}: {status.message}"
        return "the deadline came first" if reason is CancelReason.DEADLINE else ""

    # Carrying out

    def send_command(self, position: int, unanswered: int) -> None:
        due = self.at.mono + self.policy.answer_wait(unanswered)
        self.record(CommandSent(position, self.at.wall, due, unanswered))
        self.effects.append(SendCommand(position, self.tx.branches[position].attempts))

    def outcome_arrived(self, signal: OutcomeArrived) -> None:
        if rules.DECISION_OF.get(self.tx.state) is not signal.phase:
            return
        position = self.tx.find(signal.step)
        if position is None or self.tx.branches[position].settlement is not Settlement.OPEN:
            return
        rule = rules.OUTCOME.get(signal.kind)
        if rule is None:
            return
        if rule.settles is not None:
            self.record(Settled(position, rule.settles, signal.kind, signal.text, self.at.wall), self._outcome_write())
            self._finish_if_settled()
            return
        branch = self.tx.branches[position]
        # Nobody there is no failed outcome: it makes the backoff grow, and raises attention only by age.
        is_failure = rule.is_failure and not signal.unreachable
        failures = branch.failures + is_failure
        tries = failures + (branch.unreached + 1 if signal.unreachable else 0)
        hint = _BUSY_WAIT if signal.kind is OutcomeKind.BUSY and signal.retry_after is None else signal.retry_after
        wait = self.policy.retry_wait(hint, tries, self.dice(position))
        if rule.wants_person:
            wait = max(self.policy.no_try_interval, wait)
        self.record(
            OutcomeNoted(position, signal.kind, signal.text, is_failure, self.at.mono + wait, signal.unreachable)
        )
        if rule.wants_person or failures >= self.policy.attention_failures:
            what = f"step {branch.ask.step} at {branch.ask.participant}: {signal.text or signal.kind.name}"
            self._flag(f"{what} ({failures} failed attempts)")

    def _outcome_write(self) -> Write:
        is_old = self.at.mono - self.tx.decided >= self.policy.record_after
        return Write.PROGRESS if is_old else Write.NOTHING

    def _finish_if_settled(self) -> None:
        mixed = False
        for branch in self.tx.branches:
            if branch.settlement is Settlement.OPEN:
                return
            mixed = mixed or branch.settlement is Settlement.CONTRADICTED
        if mixed:
            self._note_contradiction()
        self.record(Finished(State.MIXED if mixed else rules.FINISHED[self.tx.state], self.at.wall), Write.PROGRESS)

    def _note_contradiction(self) -> None:
        for branch in self.tx.branches:
            if branch.settlement is Settlement.CONTRADICTED:
                what = f"step {branch.ask.step} at {branch.ask.participant} contradicts the decision: mend it by hand"
                self.record(Noted(HistoryEntry(self.at.wall, "contradicted", self._replica, what)))
                self.record(Flagged(what))

    def _flag(self, text: str) -> None:
        if self.tx.attention:
            return
        self.record(Noted(HistoryEntry(self.at.wall, "attention", self._replica, text)))
        self.record(Flagged(text), Write.PROGRESS)

    # Time

    def timer_fired(self, _: TimerFired) -> None:
        if self.tx.state is State.TRYING:
            self._trying_timer()
        elif not self.tx.state.is_final:
            self._command_timer()

    def _trying_timer(self) -> None:
        now = self.at.mono
        if self._is_too_late():
            return
        for position, branch in enumerate(self.tx.branches):
            if is_trying(branch) and now >= branch.try_deadline:
                noted = TryNoted(position, Reservation.UNKNOWN, *_given_up(branch), None, self.at.wall, None)
                self.record(noted, self._told(Reservation.UNKNOWN, None))
                self._decide_if_known(position)
                if self.tx.state is not State.TRYING:
                    return
            elif branch.try_due is not None and now >= branch.try_due:
                self.send_try(position)

    def _is_too_late(self) -> bool:
        """Cancels what is past its deadline, whatever else is to be said: the timer may come last after a pause."""
        if self.at.mono < self.tx.deadline:
            return False
        self._decide(Decision.CANCEL, CancelReason.DEADLINE)
        return True

    def _command_timer(self) -> None:
        now = self.at.mono
        for position, branch in enumerate(self.tx.branches):
            if branch.due is not None and now >= branch.due:
                self.send_command(position, branch.unanswered + 1 if branch.waiting else 0)
        if self.tx.unrecorded and now >= self.tx.decided + self.policy.record_after:
            self.write = max(self.write, Write.PROGRESS)
        if now >= self.tx.decided + self.policy.attention_age:
            self._flag(self.tx.last_error or "decided long ago, and not every branch has answered")

    def seen(self, signal: ParticipantSeen) -> None:
        participant = signal.participant
        if self.tx.state not in rules.DECISION_OF:
            return
        for position, branch in enumerate(self.tx.branches):
            if branch.due is None or branch.ask.participant != participant:
                continue
            if branch.waiting or branch.unreached:
                due = self.at.mono + self.dice(position) * self.policy.seen_spread
                if due < branch.due:
                    self.record(CommandDue(position, due))

    def resume(self, _: Resumed) -> None:
        self.record(Noted(HistoryEntry(self.at.wall, "adopted", self._replica, f"found {self.tx.state.value}")))
        if self.tx.state is State.TRYING:
            for position, branch in enumerate(self.tx.branches):
                if branch.reservation in _UNDECIDED_TRY and not branch.given_up:
                    self.record(TryDue(position, self.at.mono))
            self._trying_timer()
            return
        for position, branch in enumerate(self.tx.branches):
            if branch.settlement is Settlement.OPEN:
                self.send_command(position, 0)
        self._finish_if_settled()


_ANSWERS: dict[type[Signal], Callable[[_Turn, Any], None]] = {
    TryAnswered: _Turn.try_answered,
    OutcomeArrived: _Turn.outcome_arrived,
    TimerFired: _Turn.timer_fired,
    EnlistAsked: _Turn.enlist,
    ConfirmAsked: _Turn.confirm,
    CancelAsked: _Turn.cancel,
    ParticipantSeen: _Turn.seen,
    Resumed: _Turn.resume,
}


def _given_up(branch: Branch) -> tuple[Status, bytes]:
    last = branch.status
    message = "the Try was not answered in time"
    if last is not None and last.message:
        message = f"{message}; last: {last.message}"
    return Status(rules.DEADLINE_EXCEEDED, message), b""
