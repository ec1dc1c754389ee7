"""What an event changes. One function, no choices: everything there was to decide is in the event."""

from __future__ import annotations

from dataclasses import replace

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
    """The transaction after the event."""
    match event:
        case TrySent(position, at):
            branch = tx.branches[position]
            return _with(
                tx,
                position,
                replace(
                    branch,
                    try_attempts=branch.try_attempts + 1,
                    try_in_flight=branch.try_attempts + 1,
                    try_due=None,
                    try_sent_at=branch.try_sent_at or at,
                ),
            )
        case TryNoted(position, reservation, status, reply, expires, answered_at, due):
            return _with(
                tx,
                position,
                replace(
                    tx.branches[position],
                    reservation=reservation,
                    status=status,
                    reply=reply,
                    expires_at=None if expires is None else expires.wall,
                    expires=None if expires is None else expires.mono,
                    given_up=reservation is Reservation.UNKNOWN and due is None,
                    try_answered_at=answered_at,
                    try_in_flight=0,
                    try_due=due,
                ),
            )
        case Decided():
            return _decided(tx, event)
        case CommandSent(position, at, due, unanswered):
            branch = tx.branches[position]
            return _with(
                tx,
                position,
                replace(
                    branch,
                    attempts=branch.attempts + 1,
                    unanswered=unanswered,
                    waiting=True,
                    due=due,
                    sent_at=branch.sent_at or at,
                ),
            )
        case Settled(position, settlement, kind, text, at):
            branch = tx.branches[position]
            settled = replace(
                branch,
                settlement=settlement,
                outcome=kind,
                last_error=text if settlement is Settlement.CONTRADICTED else branch.last_error,
                waiting=False,
                due=None,
                settled_at=at,
            )
            return replace(_with(tx, position, settled), unrecorded=True)
        case Finished(state, at):
            # What had to be looked at is over, unless a participant broke its promise; the history keeps it.
            return replace(tx, state=state, finished_at=at, attention=state is State.MIXED)
        case Enlisted(ask, try_deadline):
            return replace(tx, branches=(*tx.branches, Branch(ask, try_deadline=try_deadline)))
        case TryDue(position, due):
            return _with(tx, position, replace(tx.branches[position], try_due=due, try_in_flight=0))
        case ConfirmWanted():
            return replace(tx, confirm_wanted=True)
        case CommandDue(position, due):
            return _with(tx, position, replace(tx.branches[position], due=due))
        case OutcomeNoted(position, kind, text, is_failure, due, unreachable):
            branch = tx.branches[position]
            after = _with(
                tx,
                position,
                replace(
                    branch,
                    outcome=kind,
                    failures=branch.failures + is_failure,
                    last_error=text if is_failure else branch.last_error,
                    unanswered=0,
                    waiting=False,
                    unreached=branch.unreached + 1 if unreachable else 0,
                    due=due,
                ),
            )
            return replace(after, last_error=text) if is_failure else after
        case Flagged(text):
            return replace(tx, attention=True, last_error=text)
        case Noted(entry):
            return replace(tx, history=_kept((*tx.history, entry)))


def _decided(tx: Transaction, event: Decided) -> Transaction:
    branches = []
    for branch in tx.branches:
        owed = rules.OWED[event.decision, branch.reservation]
        if owed is None:
            raise AssertionError(f"decided {event.decision} over step {branch.ask.step}: {branch.reservation.name}")
        is_open = owed is Settlement.OPEN
        branches.append(
            replace(
                branch,
                settlement=owed,
                due=event.at.mono if is_open else None,
                settled_at=0.0 if is_open else event.at.wall,
                try_due=None,
                try_in_flight=0,
            )
        )
    return replace(
        tx,
        state=rules.DECIDED[event.decision],
        cancel_reason=event.reason,
        decided_at=event.at.wall,
        decided=event.at.mono,
        branches=tuple(branches),
        decided_text=event.text,
    )


def _with(tx: Transaction, position: int, branch: Branch) -> Transaction:
    return replace(tx, branches=(*tx.branches[:position], branch, *tx.branches[position + 1 :]))


def _kept(history: tuple[HistoryEntry, ...]) -> tuple[HistoryEntry, ...]:
    if len(history) <= HISTORY_LIMIT:
        return history
    for position, entry in enumerate(history):
        if entry.what in _DROPPABLE:
            return history[:position] + history[position + 1 :]
    return history
