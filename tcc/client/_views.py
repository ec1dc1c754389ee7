"""Transactions as readers see them: frozen values with enums, datetimes and None where the wire has zeros.

The members of each enum stand in the order of the wire's numbers, and read as themselves in text and JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import grpc
from google.protobuf import timestamp_pb2

from tcc import wire
from tcc.actions import Action
from tcc.errors import UsageError
from tcc.v1 import manager_pb2, transaction_pb2


class State(StrEnum):
    """Where a transaction stands. It only ever moves forward, and `is_final` ends it."""

    TRYING = "TRYING"
    """Reserving; nothing is decided yet."""
    CONFIRMING = "CONFIRMING"
    """Decided Confirm; not every branch has answered yet."""
    CONFIRMED = "CONFIRMED"
    """Every branch is confirmed. Final."""
    CANCELLING = "CANCELLING"
    """Decided Cancel; not every branch has answered yet."""
    CANCELLED = "CANCELLED"
    """Every branch holds nothing. Final."""
    MIXED = "MIXED"
    """Every branch is settled, and at least one contradicts the decision: call a person. Final."""
    UNKNOWABLE = "UNKNOWABLE"
    """The manager has no record and cannot rule out that there was one. Only participants are told this."""
    UNKNOWN = "UNKNOWN"
    """One that only a manager of a newer version knows."""

    @property
    def is_final(self) -> bool:
        """Nothing more will happen."""
        return self in _FINAL

    @classmethod
    def open(cls) -> tuple[State, ...]:
        """Those of transactions that are not final, for `Manager.list(states=...)`."""
        return (cls.TRYING, cls.CONFIRMING, cls.CANCELLING)


_FINAL: Final = frozenset({State.CONFIRMED, State.CANCELLED, State.MIXED})


class Decision(StrEnum):
    """The one decision of a transaction."""

    CONFIRM = "CONFIRM"
    CANCEL = "CANCEL"


class CancelReason(StrEnum):
    """Why a transaction was cancelled."""

    REFUSED = "REFUSED"
    """A participant refused its Try."""
    DEADLINE = "DEADLINE"
    """The deadline came before a Confirm was possible."""
    CLIENT = "CLIENT"
    """The client asked for it."""
    EXPIRY = "EXPIRY"
    """A reservation would have expired before it could be confirmed safely."""


class TryResult(StrEnum):
    """What the manager knows of a branch's reservation."""

    PENDING = "PENDING"
    """The Try has not been answered yet."""
    RESERVED = "RESERVED"
    """The participant holds the reservation."""
    REFUSED = "REFUSED"
    """The participant refused."""
    UNKNOWN = "UNKNOWN"
    """The last answer tells nothing."""


class Outcome(StrEnum):
    """How a participant answered a Confirm or Cancel."""

    DONE = "DONE"
    BUSY = "BUSY"
    RETRY = "RETRY"
    CONTRADICTED = "CONTRADICTED"
    NO_TRY = "NO_TRY"


class Wait(StrEnum):
    """What an answer waits for."""

    DECIDED = "DECIDED"
    """The decision is durable. Reads right after may still show reservations."""
    COMPLETED = "COMPLETED"
    """Every branch is settled, or the transaction's time is nearly over; the answer's state tells which."""


DECIDED: Final = Wait.DECIDED
COMPLETED: Final = Wait.COMPLETED

_STATE: Final = dict(enumerate((state for state in State if state is not State.UNKNOWN), 1))
_DECISION: Final = dict(enumerate(Decision, 1))
_CANCEL_REASON: Final = dict(enumerate(CancelReason, 1))
_TRY_RESULT: Final = dict(enumerate(TryResult))
_OUTCOME: Final = dict(enumerate(Outcome, 1))
_COMMAND: Final = {transaction_pb2.PHASE_CONFIRM: Decision.CONFIRM, transaction_pb2.PHASE_CANCEL: Decision.CANCEL}


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
    command: Decision | None
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
            state=_STATE.get(message.state, State.UNKNOWN),
            version=message.version,
            attention=message.attention,
            last_error=message.last_error,
            decision=_DECISION.get(message.decision),
            cancel_reason=_CANCEL_REASON.get(message.cancel_reason),
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
        try_result=_TRY_RESULT.get(message.try_result, TryResult.UNKNOWN),
        marked=message.marked,
        try_code=wire.STATUS_BY_NUMBER.get(message.try_status.code, grpc.StatusCode.UNKNOWN) if tried else None,
        try_message=message.try_status.message,
        try_reply=message.try_reply,
        try_attempts=message.try_attempts,
        try_sent_at=_time(message, "try_sent_at", message.try_sent_at),
        try_answered_at=_time(message, "try_answered_at", message.try_answered_at),
        expires_at=_time(message, "expires_at", message.expires_at),
        command=_COMMAND.get(message.command),
        command_attempts=message.command_attempts,
        command_failures=message.command_failures,
        command_sent_at=_time(message, "command_sent_at", message.command_sent_at),
        outcome=_OUTCOME.get(message.outcome),
        settled_at=_time(message, "settled_at", message.settled_at),
        last_error=message.last_error,
    )


def state_of(message: transaction_pb2.Transaction) -> State:
    """A transaction's state."""
    return _STATE.get(message.state, State.UNKNOWN)


def cancel_reason(number: int) -> CancelReason | None:
    """A reason by its number on the wire; None for none."""
    return _CANCEL_REASON.get(number)


def wire_states(states: Iterable[State]) -> list[transaction_pb2.State.ValueType]:
    """The wire's numbers of states.

    Raises:
        UsageError: one that no stored transaction can have.
    """
    states = tuple(states)
    for state in states:
        if state in (State.UNKNOWABLE, State.UNKNOWN):
            raise UsageError(f"no stored transaction is {state}: list by State.open() or by the others")
    return [transaction_pb2.State.Value(f"STATE_{state}") for state in states]


def wire_wait(wait: Wait) -> manager_pb2.Wait.ValueType:
    """The wire's word for it."""
    return manager_pb2.WAIT_COMPLETED if wait is Wait.COMPLETED else manager_pb2.WAIT_DECIDED


def _time(
    message: transaction_pb2.Transaction | transaction_pb2.Branch | transaction_pb2.HistoryEntry,
    field: str,
    value: timestamp_pb2.Timestamp,
) -> datetime | None:
    return value.ToDatetime(UTC) if message.HasField(field) else None  # type: ignore[arg-type]  # a union of literals
