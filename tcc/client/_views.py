"""Transactions as readers see them: frozen values with enums, datetimes and None where the wire has zeros.

The numbers of the enums are the wire's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final

import grpc
from google.protobuf import timestamp_pb2

from tcc import wire
from tcc.actions import Action
from tcc.v1 import manager_pb2, transaction_pb2


class State(IntEnum):
    """Where a transaction stands. It only ever moves forward, and `is_final` ends it."""

    TRYING = 1
    """Reserving; nothing is decided yet."""
    CONFIRMING = 2
    """Decided Confirm; not every branch has answered yet."""
    CONFIRMED = 3
    """Every branch is confirmed. Final."""
    CANCELLING = 4
    """Decided Cancel; not every branch has answered yet."""
    CANCELLED = 5
    """Every branch holds nothing. Final."""
    MIXED = 6
    """Every branch is settled, and at least one contradicts the decision: call a person. Final."""
    UNKNOWABLE = 7
    """The manager has no record and cannot rule out that there was one. Only participants are told this."""

    @property
    def is_final(self) -> bool:
        """Nothing more will happen."""
        return self in _FINAL


_FINAL: Final = frozenset({State.CONFIRMED, State.CANCELLED, State.MIXED})


class Decision(IntEnum):
    """The one decision of a transaction."""

    CONFIRM = 1
    CANCEL = 2


class CancelReason(IntEnum):
    """Why a transaction was cancelled."""

    REFUSED = 1
    """A participant refused its Try."""
    DEADLINE = 2
    """The deadline came before a Confirm was possible."""
    CLIENT = 3
    """The client asked for it."""
    EXPIRY = 4
    """A reservation would have expired before it could be confirmed safely."""


class TryResult(IntEnum):
    """What the manager knows of a branch's reservation."""

    PENDING = 0
    """The Try has not been answered yet."""
    RESERVED = 1
    """The participant holds the reservation."""
    REFUSED = 2
    """The participant refused."""
    UNKNOWN = 3
    """The last answer tells nothing."""


class Phase(IntEnum):
    """One of an action's three calls."""

    TRY = 1
    CONFIRM = 2
    CANCEL = 3


class Outcome(IntEnum):
    """How a participant answered a Confirm or Cancel."""

    DONE = 1
    BUSY = 2
    RETRY = 3
    CONTRADICTED = 4
    NO_TRY = 5


class Wait(IntEnum):
    """What an answer waits for."""

    DECIDED = 1
    """The decision is durable. Reads right after may still show reservations."""
    COMPLETED = 2
    """Every branch is settled, or the transaction's time is nearly over; the answer's state tells which."""


DECIDED: Final = Wait.DECIDED
COMPLETED: Final = Wait.COMPLETED


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchView:
    """One branch. All times are the manager's.

    Attributes:
        step: the branch's id within its transaction.
        participant: the participant's name.
        action: the action's three methods.
        try_result: what is known of the reservation.
        marked: the participant itself said that it holds nothing.
        try_code: status of the last answer to the Try; None before the first.
        try_message: its text.
        try_reply: the Try's reply as bytes, where payloads were asked for.
        try_attempts: how many times the Try was sent.
        try_sent_at: when it was first sent.
        try_answered_at: when it was last answered.
        expires_at: when the reservation expires, if it does.
        command: what the decision sends to this branch; None where nothing is owed.
        command_attempts: how many times that was sent.
        command_failures: how many of them failed.
        command_sent_at: when it was first sent.
        outcome: the last answer to it; None before the first.
        settled_at: when the branch settled.
        last_error: text of the last failure.
    """

    step: str
    participant: str
    action: Action
    try_result: TryResult
    marked: bool
    try_code: grpc.StatusCode | None
    try_message: str
    try_reply: bytes
    try_attempts: int
    try_sent_at: datetime | None
    try_answered_at: datetime | None
    expires_at: datetime | None
    command: Phase | None
    command_attempts: int
    command_failures: int
    command_sent_at: datetime | None
    outcome: Outcome | None
    settled_at: datetime | None
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryView:
    """An entry of a transaction's history: when, what, who (a replica's id or a person's name) and why."""

    at: datetime | None
    what: str
    who: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionView:
    """A transaction as the manager saw it when it answered. All times are the manager's.

    Attributes:
        gid: its id.
        namespace: the namespace of its client.
        name: the name that its client gave it; may be empty.
        state: where it stands.
        version: grows with every change.
        attention: a person should look; see `last_error`.
        last_error: the last failure of any branch.
        decision: None while nothing is decided.
        cancel_reason: None unless it was cancelled.
        begun_at: when it began.
        deadline: when it is cancelled unless decided before.
        decided_at: when the decision was made.
        finished_at: when every branch was settled.
        branches: in the order of enlisting; empty in lists.
        history: oldest first; empty in lists.
        interactive: it was begun by `Manager.transaction`, not by `Manager.execute`.
        traceparent: W3C traceparent of its trace.
    """

    gid: str
    namespace: str
    name: str
    state: State
    version: int
    attention: bool
    last_error: str
    decision: Decision | None
    cancel_reason: CancelReason | None
    begun_at: datetime | None
    deadline: datetime | None
    decided_at: datetime | None
    finished_at: datetime | None
    branches: tuple[BranchView, ...]
    history: tuple[HistoryView, ...]
    interactive: bool
    traceparent: str

    @classmethod
    def of(cls, message: transaction_pb2.Transaction) -> TransactionView:
        """The view of a message as the manager sends it."""
        return cls(
            gid=message.gid,
            namespace=message.namespace,
            name=message.name,
            state=State(message.state),
            version=message.version,
            attention=message.attention,
            last_error=message.last_error,
            decision=Decision(message.decision) if message.decision else None,
            cancel_reason=CancelReason(message.cancel_reason) if message.cancel_reason else None,
            begun_at=_time(message, "begun_at", message.begun_at),
            deadline=_time(message, "deadline", message.deadline),
            decided_at=_time(message, "decided_at", message.decided_at),
            finished_at=_time(message, "finished_at", message.finished_at),
            branches=tuple(map(branch_view, message.branches)),
            history=tuple(
                HistoryView(at=_time(entry, "at", entry.at), what=entry.what, who=entry.who, reason=entry.reason)
                for entry in message.history
            ),
            interactive=message.interactive,
            traceparent=message.traceparent,
        )


def branch_view(message: transaction_pb2.Branch) -> BranchView:
    """The view of one branch as the manager sends it."""
    tried = message.HasField("try_status")
    return BranchView(
        step=message.step,
        participant=message.participant,
        action=Action(message.methods.try_method, message.methods.confirm_method, message.methods.cancel_method),
        try_result=TryResult(message.try_result),
        marked=message.marked,
        try_code=wire.STATUS_BY_NUMBER.get(message.try_status.code, grpc.StatusCode.UNKNOWN) if tried else None,
        try_message=message.try_status.message,
        try_reply=message.try_reply,
        try_attempts=message.try_attempts,
        try_sent_at=_time(message, "try_sent_at", message.try_sent_at),
        try_answered_at=_time(message, "try_answered_at", message.try_answered_at),
        expires_at=_time(message, "expires_at", message.expires_at),
        command=Phase(message.command) if message.command else None,
        command_attempts=message.command_attempts,
        command_failures=message.command_failures,
        command_sent_at=_time(message, "command_sent_at", message.command_sent_at),
        outcome=Outcome(message.outcome) if message.outcome else None,
        settled_at=_time(message, "settled_at", message.settled_at),
        last_error=message.last_error,
    )


def wire_wait(wait: Wait) -> manager_pb2.Wait.ValueType:
    """The wire's word for it."""
    return manager_pb2.WAIT_COMPLETED if wait is Wait.COMPLETED else manager_pb2.WAIT_DECIDED


def _time(
    message: transaction_pb2.Transaction | transaction_pb2.Branch | transaction_pb2.HistoryEntry,
    field: str,
    value: timestamp_pb2.Timestamp,
) -> datetime | None:
    return value.ToDatetime(UTC) if message.HasField(field) else None  # type: ignore[arg-type]  # a union of literals
