"""What an event changes. One function, no choices: everything there was to decide is in the event."""

from __future__ import annotations

from tcc_server.core import rules
from tcc_server.core.messages import (
    CommandDue,
    CommandSent,
    ConfirmWanted,
    Decided,
    Enlisted,
    Event,
    Finished,
    Flagged,
    Noted,
    OutcomeNoted,
    Settled,
    TryDue,
    TryNoted,
    TrySent,
)
from tcc_server.core.model import Branch, HistoryEntry, Reservation, Settlement, State, Transaction

HISTORY_LIMIT = 64
"""Entries kept at most; what is dropped are the oldest `adopted` and `attention` ones, never a person's."""

_DROPPABLE = frozenset({"adopted", "attention"})


def evolve(tx: Transaction, event: Event) -> Transaction:
    """The transaction after the event; the one before stays as it is."""
    after = tx.copied()
    match event:
        case TrySent(position, at):
            branch = _opened(after, position)
            branch.try_attempts += 1
            branch.try_in_flight = branch.try_attempts
            branch.try_due = None
            branch.try_sent_at = branch.try_sent_at or at
        case TryNoted(position, reservation, status, reply, expires, answered_at, due):
            branch = _opened(after, position)
            branch.reservation = reservation
            branch.status = status
            branch.reply = reply
            branch.expires_at = None if expires is None else expires.wall
            branch.expires = None if expires is None else expires.mono
            branch.given_up = reservation is Reservation.UNKNOWN and due is None
            branch.try_answered_at = answered_at
            branch.try_in_flight = 0
            branch.try_due = due
        case Decided():
            _decide(after, event)
        case CommandSent(position, at, due, unanswered):
            branch = _opened(after, position)
            branch.attempts += 1
            branch.unanswered = unanswered
            branch.waiting = True
            branch.due = due
            branch.sent_at = branch.sent_at or at
        case Settled(position, settlement, kind, text, at):
            branch = _opened(after, position)
            branch.settlement = settlement
            branch.outcome = kind
            if settlement is Settlement.CONTRADICTED:
                branch.last_error = text
            branch.waiting = False
            branch.due = None
            branch.settled_at = at
            after.unrecorded = True
        case Finished(state, at):
            after.state = state
            after.finished_at = at
            # What had to be looked at is over, unless a participant broke its promise; the history keeps it.
            after.attention = state is State.MIXED
        case Enlisted(ask, try_deadline):
            after.branches = (*after.branches, Branch(ask, try_deadline=try_deadline))
        case TryDue(position, due):
            branch = _opened(after, position)
            branch.try_due = due
            branch.try_in_flight = 0
        case ConfirmWanted():
            after.confirm_wanted = True
        case CommandDue(position, due):
            _opened(after, position).due = due
        case OutcomeNoted(position, kind, text, is_failure, due, unreachable):
            branch = _opened(after, position)
            branch.outcome = kind
            branch.failures += is_failure
            branch.unanswered = 0
            branch.waiting = False
            branch.unreached = branch.unreached + 1 if unreachable else 0
            branch.due = due
            if is_failure:
                branch.last_error = after.last_error = text
        case Flagged(text):
            after.attention = True
            after.last_error = text
        case Noted(entry):
            after.history = _kept((*after.history, entry))
    return after


def _decide(after: Transaction, event: Decided) -> None:
    branches = []
    for before in after.branches:
        owed = rules.OWED[event.decision, before.reservation]
        if owed is None:
            raise AssertionError(f"decided {event.decision} over step {before.ask.step}: {before.reservation.name}")
        is_open = owed is Settlement.OPEN
        branch = before.copied()
        branch.settlement = owed
        branch.due = event.at.mono if is_open else None
        branch.settled_at = 0.0 if is_open else event.at.wall
        branch.try_due = None
        branch.try_in_flight = 0
        branches.append(branch)
    after.state = rules.DECIDED[event.decision]
    after.cancel_reason = event.reason
    after.decided_at = event.at.wall
    after.decided = event.at.mono
    after.branches = tuple(branches)
    after.decided_text = event.text


def _opened(after: Transaction, position: int) -> Branch:
    """A branch of one's own in a transaction of one's own, to be changed."""
    branches = after.branches
    branch = branches[position].copied()
    after.branches = (*branches[:position], branch, *branches[position + 1 :])
    return branch


def _kept(history: tuple[HistoryEntry, ...]) -> tuple[HistoryEntry, ...]:
    if len(history) <= HISTORY_LIMIT:
        return history
    for position, entry in enumerate(history):
        if entry.what in _DROPPABLE:
            return history[:position] + history[position + 1 :]
    return history
