"""What an event changes. No choices here: everything there was to decide is in the event.

`evolve` makes one transaction of another. An answer of several events has one copy made for all of them, a `Draft`,
which nobody else sees before it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    draft = Draft(tx)
    draft.apply(event)
    return draft.tx


class Draft:
    """A transaction of one's own, and those of its branches that were copied so far, to be changed by events.

    Args:
        tx: stays as it is, and its branches do.

    Attributes:
        tx: the transaction after the events.
    """

    __slots__ = ("_own", "tx")

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx.copied()
        self._own: set[int] = set()

    def apply(self, event: Event) -> None:
        """Change what the event changes."""
        _CHANGES[type(event)](self, event)

    def branch(self, position: int) -> Branch:
        """A branch of one's own, to be changed."""
        branches = self.tx.branches
        branch = branches[position]
        if position not in self._own:
            branch = branch.copied()
            self._own.add(position)
            self.tx.branches = (*branches[:position], branch, *branches[position + 1 :])
        return branch

    def add(self, branch: Branch) -> None:
        """One more branch, made for this."""
        self._own.add(len(self.tx.branches))
        self.tx.branches = (*self.tx.branches, branch)


def _enlisted(draft: Draft, event: Enlisted) -> None:
    draft.add(Branch(event.ask, try_deadline=event.try_deadline))


def _try_sent(draft: Draft, event: TrySent) -> None:
    branch = draft.branch(event.position)
    branch.try_attempts += 1
    branch.try_in_flight = branch.try_attempts
    branch.try_due = None
    branch.try_sent_at = branch.try_sent_at or event.at


def _try_noted(draft: Draft, event: TryNoted) -> None:
    branch = draft.branch(event.position)
    expires = event.expires
    branch.reservation = event.reservation
    branch.status = event.status
    branch.reply = event.reply
    branch.expires_at = None if expires is None else expires.wall
    branch.expires = None if expires is None else expires.mono
    branch.given_up = event.reservation is Reservation.UNKNOWN and event.due is None
    branch.try_answered_at = event.answered_at
    branch.try_in_flight = 0
    branch.try_due = event.due


def _try_due(draft: Draft, event: TryDue) -> None:
    branch = draft.branch(event.position)
    branch.try_due = event.due
    branch.try_in_flight = 0


def _confirm_wanted(draft: Draft, event: ConfirmWanted) -> None:
    draft.tx.confirm_wanted = True


def _decided(draft: Draft, event: Decided) -> None:
    tx = draft.tx
    for position, before in enumerate(tx.branches):
        owed = rules.OWED[event.decision, before.reservation]
        if owed is None:
            raise AssertionError(f"decided {event.decision} over step {before.ask.step}: {before.reservation.name}")
        branch = draft.branch(position)
        branch.settlement = owed
        branch.try_due = None
        branch.try_in_flight = 0
        if owed is Settlement.OPEN:
            branch.attempts += 1
            branch.unanswered = 0
            branch.waiting = True
            branch.due = event.due
            branch.sent_at = event.at.wall
        else:
            branch.due = None
            branch.settled_at = event.at.wall
    tx.state = rules.DECIDED[event.decision]
    tx.cancel_reason = event.reason
    tx.decided_at = event.at.wall
    tx.decided = event.at.mono
    tx.decided_text = event.text


def _command_sent(draft: Draft, event: CommandSent) -> None:
    branch = draft.branch(event.position)
    branch.attempts += 1
    branch.unanswered = event.unanswered
    branch.waiting = True
    branch.due = event.due
    branch.sent_at = branch.sent_at or event.at


def _command_due(draft: Draft, event: CommandDue) -> None:
    draft.branch(event.position).due = event.due


def _outcome_noted(draft: Draft, event: OutcomeNoted) -> None:
    branch = draft.branch(event.position)
    branch.outcome = event.kind
    branch.failures += event.is_failure
    branch.unanswered = 0
    branch.waiting = False
    branch.unreached = branch.unreached + 1 if event.unreachable else 0
    branch.due = event.due
    if event.is_failure:
        branch.last_error = draft.tx.last_error = event.text


def _settled(draft: Draft, event: Settled) -> None:
    branch = draft.branch(event.position)
    branch.settlement = event.settlement
    branch.outcome = event.kind
    if event.settlement is Settlement.CONTRADICTED:
        branch.last_error = event.text
    branch.waiting = False
    branch.due = None
    branch.settled_at = event.at
    draft.tx.unrecorded = True


def _flagged(draft: Draft, event: Flagged) -> None:
    draft.tx.attention = True
    draft.tx.last_error = event.text


def _noted(draft: Draft, event: Noted) -> None:
    draft.tx.history = _kept((*draft.tx.history, event.entry))


def _finished(draft: Draft, event: Finished) -> None:
    draft.tx.state = event.state
    draft.tx.finished_at = event.at
    # What had to be looked at is over, unless a participant broke its promise; the history keeps it.
    draft.tx.attention = event.state is State.MIXED


_CHANGES: dict[type[Event], Callable[[Draft, Any], None]] = {
    Enlisted: _enlisted,
    TrySent: _try_sent,
    TryNoted: _try_noted,
    TryDue: _try_due,
    ConfirmWanted: _confirm_wanted,
    Decided: _decided,
    CommandSent: _command_sent,
    CommandDue: _command_due,
    OutcomeNoted: _outcome_noted,
    Settled: _settled,
    Flagged: _flagged,
    Noted: _noted,
    Finished: _finished,
}


def _kept(history: tuple[HistoryEntry, ...]) -> tuple[HistoryEntry, ...]:
    if len(history) <= HISTORY_LIMIT:
        return history
    for position, entry in enumerate(history):
        if entry.what in _DROPPABLE:
            return history[:position] + history[position + 1 :]
    return history
