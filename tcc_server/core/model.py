"""What there is: transactions, branches, and the moments at which things happen to them.

Everything here is a value: nobody changes one. They are not declared frozen only because frozen ones are dear to make,
and each answer makes new ones: a `Draft` changes a copy that nobody else has seen.

Times named `*_at` are wall-clock unix seconds and only stand in rows and answers; whatever a timer waits for (`due`,
`deadline`) is on the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple


class State(Enum):
    """Where a transaction stands. Attention is a flag, never a state."""

    TRYING = "TRYING"
    CONFIRMING = "CONFIRMING"
    CONFIRMED = "CONFIRMED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    MIXED = "MIXED"

    is_final: bool
    """Nothing more will happen."""

    def __init__(self, name: str) -> None:
        self.is_final = name in ("CONFIRMED", "CANCELLED", "MIXED")

    __hash__ = object.__hash__  # Enum's own is a call in Python; members are what they are by identity


class Decision(Enum):
    """The one decision of a transaction."""

    CONFIRM = "confirm"
    CANCEL = "cancel"

    __hash__ = object.__hash__


class CancelReason(IntEnum):
    """Why a transaction was cancelled; the numbers are the wire's."""

    NONE = 0
    REFUSED = 1
    DEADLINE = 2
    CLIENT = 3
    EXPIRY = 4


class Reservation(IntEnum):
    """What is known of a branch's reservation; the numbers are the stored ones."""

    PENDING = 0
    """The Try may have left; no answer yet."""
    RESERVED = 1
    """The participant holds it."""
    REFUSED = 2
    """Refused with the mark: the participant says that it holds nothing."""
    DECLINED = 3
    """Refused without the mark: something between may have answered, so Cancel is owed."""
    UNKNOWN = 4
    """The last answer tells nothing."""


class Settlement(IntEnum):
    """What became of a branch's command; the numbers are the stored ones."""

    OPEN = 0
    NOTHING_OWED = 1
    DONE = 2
    CONTRADICTED = 3


class OutcomeKind(IntEnum):
    """How a participant answered a command; the numbers are the wire's."""

    NONE = 0
    DONE = 1
    BUSY = 2
    RETRY = 3
    CONTRADICTED = 4
    NO_TRY = 5


class Moment(NamedTuple):
    """A point in time on both clocks: `mono` for timers, `wall` (unix seconds) for rows."""

    mono: float
    wall: float


class Key(NamedTuple):
    """What names a transaction."""

    namespace: str
    gid: str


class Methods(NamedTuple):
    """An action's three methods, as full paths."""

    try_method: str
    confirm_method: str
    cancel_method: str


@dataclass(slots=True)
class Ask:
    """What the client asks of one branch.

    Attributes:
        request: the Try's bytes as they came; Confirm and Cancel get the same.
        request_hash: of those bytes, computed once.
        try_timeout: seconds for the Try with its repeats; None: until the transaction's deadline.
        metadata: for the Try; no part of what a repeated call must match.
    """

    step: str
    participant: str
    methods: Methods
    request: bytes
    request_hash: bytes
    try_timeout: float | None = None
    metadata: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True)
class Status:
    """A gRPC status as it came: number, text, and the raw `grpc-status-details-bin`."""

    code: int = 0
    message: str = ""
    details: bytes = b""


@dataclass(slots=True)
class Branch:
    """One branch: what was asked, what is reserved, and how its command goes.

    Attributes:
        status: of the last answer to the Try; None before the first.
        expires_at: when the reservation expires, on the wall clock; None: never.
        expires: the same on the monotonic clock, by which it is judged.
        given_up: the Try stays unknown; its client was told so.
        try_due: when to send the next Try attempt; None: none is wanted, or one is in flight.
        try_deadline: when its Try is given up.
        due: when to send the command (again); None: nothing is owed.
        unanswered: commands in a row that no outcome answered, for the answer timeout's doubling.
        waiting: a command was sent and is unanswered.
        unreached: outcomes in a row that say that nobody was there.
    """

    ask: Ask
    reservation: Reservation = Reservation.PENDING
    status: Status | None = None
    reply: bytes = b""
    expires_at: float | None = None
    expires: float | None = None
    given_up: bool = False
    try_attempts: int = 0
    try_in_flight: int = 0
    try_due: float | None = None
    try_deadline: float = 0.0
    try_sent_at: float = 0.0
    try_answered_at: float = 0.0
    settlement: Settlement = Settlement.OPEN
    outcome: OutcomeKind = OutcomeKind.NONE
    attempts: int = 0
    failures: int = 0
    unanswered: int = 0
    waiting: bool = False
    unreached: int = 0
    due: float | None = None
    last_error: str = ""
    sent_at: float = 0.0
    settled_at: float = 0.0

    def copied(self) -> Branch:
        """One of one's own, to be changed. Field by field, which is the quickest way; a test knows all fields."""
        return Branch(
            self.ask,
            self.reservation,
            self.status,
            self.reply,
            self.expires_at,
            self.expires,
            self.given_up,
            self.try_attempts,
            self.try_in_flight,
            self.try_due,
            self.try_deadline,
            self.try_sent_at,
            self.try_answered_at,
            self.settlement,
            self.outcome,
            self.attempts,
            self.failures,
            self.unanswered,
            self.waiting,
            self.unreached,
            self.due,
            self.last_error,
            self.sent_at,
            self.settled_at,
        )


@dataclass(slots=True)
class HistoryEntry:
    """What happened, when (wall), who did it, and why."""

    at: float
    what: str
    who: str
    reason: str


@dataclass(slots=True)
class Transaction:
    """A transaction at one version.

    Attributes:
        version: of the row that holds it, or is to hold it; 0 before the first.
        deadline: when it is cancelled unless decided, on the monotonic clock.
        confirm_wanted: the client of an interactive transaction asked to confirm while Tries were in flight.
        decided_text: why, for people.
        unrecorded: a branch was settled since the last write.
    """

    key: Key
    name: str
    interactive: bool
    state: State
    begun_at: float
    deadline_at: float
    deadline: float
    traceparent: str = ""
    tracestate: str = ""
    version: int = 0
    branches: tuple[Branch, ...] = ()
    cancel_reason: CancelReason = CancelReason.NONE
    confirm_wanted: bool = False
    decided_at: float | None = None
    decided: float = 0.0
    decided_text: str = ""
    finished_at: float | None = None
    unrecorded: bool = False
    attention: bool = False
    last_error: str = ""
    history: tuple[HistoryEntry, ...] = field(default=())

    @property
    def decision(self) -> Decision | None:
        """The decision, or None."""
        if self.decided_at is None:
            return None
        return Decision.CANCEL if self.cancel_reason else Decision.CONFIRM

    def find(self, step: str) -> int | None:
        """The position of the branch with that step."""
        for position, branch in enumerate(self.branches):
            if branch.ask.step == step:
                return position
        return None

    def copied(self) -> Transaction:
        """One of one's own, to be changed; its branches are the same."""
        return Transaction(
            self.key,
            self.name,
            self.interactive,
            self.state,
            self.begun_at,
            self.deadline_at,
            self.deadline,
            self.traceparent,
            self.tracestate,
            self.version,
            self.branches,
            self.cancel_reason,
            self.confirm_wanted,
            self.decided_at,
            self.decided,
            self.decided_text,
            self.finished_at,
            self.unrecorded,
            self.attention,
            self.last_error,
            self.history,
        )
