"""What comes into the core and what goes out: signals, events, effects.

A *signal* is something that happened outside. The core answers it with *events*, which change the transaction and are
recorded, and with *effects*, which the shell performs only once what must be recorded is durable.

All are values, as in the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from tcc_server.core.model import (
    Ask,
    CancelReason,
    Decision,
    HistoryEntry,
    Moment,
    OutcomeKind,
    Reservation,
    Settlement,
    State,
    Status,
    Transaction,
)


class Circumstance(NamedTuple):
    """Under what circumstances a signal is answered.

    Attributes:
        dice: a number in [0, 1) from which every jitter of this answer is derived.
        replica: who acts.
    """

    at: Moment
    dice: float
    replica: str


# Signals


@dataclass(slots=True)
class EnlistAsked:
    """An interactive client wants one more branch."""

    ask: Ask


@dataclass(slots=True)
class ConfirmAsked:
    """An interactive client wants to confirm."""


@dataclass(slots=True)
class CancelAsked:
    """A client wants to cancel.

    Attributes:
        reason: its words, for the history.
    """

    reason: str = ""


@dataclass(slots=True)
class TryAnswered:
    """An attempt of a Try came back, with whatever status, or was given up.

    Attributes:
        marked: the answer had `tcc-refused: 1`.
        expires_in: seconds for which the reservation holds, counted from `sent`; None: it does not expire.
        retry_after: seconds that a RetryInfo asks for.
        sent: when this attempt was sent.
    """

    step: str
    attempt: int
    status: Status
    marked: bool = False
    reply: bytes = b""
    expires_in: float | None = None
    retry_after: float | None = None
    sent: Moment = Moment(0.0, 0.0)  # noqa: RUF009  a tuple


@dataclass(slots=True)
class OutcomeArrived:
    """A participant answered a command.

    Attributes:
        phase: the phase that was carried out, as the decision that it belongs to.
        text: code, message or reason, for people.
        retry_after: seconds; None: the manager's own backoff.
        unreachable: nobody was there to answer.
    """

    step: str
    phase: Decision
    kind: OutcomeKind
    text: str = ""
    retry_after: float | None = None
    unreachable: bool = False


@dataclass(slots=True)
class TimerFired:
    """The time that `next_wake` named has come."""


@dataclass(slots=True)
class ParticipantSeen:
    """A participant that was silent is there again."""

    participant: str


@dataclass(slots=True)
class Resumed:
    """The transaction was read from the log by a new owner, who knows of nothing in flight."""


Signal = (
    EnlistAsked | ConfirmAsked | CancelAsked | TryAnswered | OutcomeArrived | TimerFired | ParticipantSeen | Resumed
)


# Events


@dataclass(slots=True)
class Enlisted:
    """A branch joined; its Try may leave once this is recorded."""

    ask: Ask
    try_deadline: float


@dataclass(slots=True)
class TrySent:
    """An attempt of a Try leaves; those of a plan's begin need no event."""

    position: int
    at: float


@dataclass(slots=True)
class TryNoted:
    """An attempt's answer was understood.

    Attributes:
        due: when to send the next attempt; None: not at all.
    """

    position: int
    reservation: Reservation
    status: Status
    reply: bytes
    expires: Moment | None
    answered_at: float
    due: float | None


@dataclass(slots=True)
class TryDue:
    """The next attempt of a Try is due at another time; None: the Try is given up."""

    position: int
    due: float | None


@dataclass(slots=True)
class ConfirmWanted:
    """The client asked to confirm; Tries are still in flight."""


@dataclass(slots=True)
class Decided:
    """The decision, for ever. The first commands of all branches that are owed one leave.

    Attributes:
        due: when to send them again should no outcome come.
    """

    decision: Decision
    reason: CancelReason
    at: Moment
    text: str
    due: float


@dataclass(slots=True)
class CommandSent:
    """A command leaves once more.

    Attributes:
        due: when to send it again should no outcome come.
    """

    position: int
    at: float
    due: float
    unanswered: int


@dataclass(slots=True)
class CommandDue:
    """A command is due at another time."""

    position: int
    due: float


@dataclass(slots=True)
class OutcomeNoted:
    """An outcome came that does not settle the branch."""

    position: int
    kind: OutcomeKind
    text: str
    is_failure: bool
    due: float
    unreachable: bool


@dataclass(slots=True)
class Settled:
    """A branch is settled."""

    position: int
    settlement: Settlement
    kind: OutcomeKind
    text: str
    at: float


@dataclass(slots=True)
class Flagged:
    """A person should look."""

    text: str


@dataclass(slots=True)
class Noted:
    """Something for the history."""

    entry: HistoryEntry


@dataclass(slots=True)
class Finished:
    """Every branch is settled."""

    state: State
    at: float


Event = (
    Enlisted
    | TrySent
    | TryNoted
    | TryDue
    | ConfirmWanted
    | Decided
    | CommandSent
    | CommandDue
    | OutcomeNoted
    | Settled
    | Flagged
    | Noted
    | Finished
)


# Effects


@dataclass(slots=True)
class SendTry:
    """Send one attempt of a branch's Try.

    Attributes:
        timeout: seconds that this attempt may take.
    """

    position: int
    attempt: int
    timeout: float


@dataclass(slots=True)
class SendCommand:
    """Send a branch's command; its phase is the decision's."""

    position: int
    attempt: int


@dataclass(slots=True)
class DropTries:
    """Whatever is still in flight of this transaction's Tries no longer matters."""


Effect = SendTry | SendCommand | DropTries


class Write(IntEnum):
    """What must be durable before the effects of an answer, and before anybody hears of it."""

    NOTHING = 0
    PROGRESS = 1
    """The row without its body."""
    BODY = 2
    """The whole row."""


@dataclass(slots=True)
class Answer:
    """How the core answers signals.

    Attributes:
        after: the transaction with the events applied; where it must be written, of the version to be written.
        at: the circumstance's.
        answered: how many signals this answers.
        wake: when a TimerFired is wanted after it, on the monotonic clock; None: never.
    """

    after: Transaction
    events: Sequence[Event]
    effects: Sequence[Effect]
    write: Write
    at: Moment
    answered: int
    wake: float | None
