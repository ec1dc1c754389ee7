"""Between a transaction and its row: `encode` for appends, `decode` for what was read.

Timers do not survive in rows: wall time stands there, and `decode` puts what is left of a deadline back on the
monotonic clock of the reader.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from google.protobuf.message import Message

from tcc.streams import varint
from tcc_server.core.messages import Answer, Write
from tcc_server.core.model import (
    Ask,
    Branch,
    CancelReason,
    HistoryEntry,
    Methods,
    Moment,
    OutcomeKind,
    Reservation,
    Settlement,
    Status,
    Transaction,
)
from tcc_server.log.seam import Row
from tcc_server.log.v1 import record_pb2 as pb


def encode(answer: Answer, *, write_id: bytes) -> Row:
    """The row that makes an answer durable: it replaces the stored one of the version before."""
    tx, at, wake = answer.after, answer.at, answer.wake
    return Row(
        tx.key,
        tx.version,
        tx.state,
        tx.name,
        None if wake is None else at.wall + (wake - at.mono),
        tx.begun_at,
        tx.decided_at,
        tx.finished_at,
        tx.attention,
        write_id,
        _body(tx) if answer.write is Write.BODY else None,
        _progress(tx),
    )


def decode(row: Row, at: Moment) -> Transaction:
    """The transaction in a row that was read, seen from the moment `at`; without branches where it has no body.

    A wall clock that was set back while nobody looked must not make anything last longer than it was to last.
    """
    body = pb.Body.FromString(row.body or b"")
    progress = pb.Progress.FromString(row.progress)
    deadline_at = body.deadline or progress.deadline
    deadline = at.mono + _left(deadline_at, row.begun_at, at)
    commands = list(progress.commands) if row.body is not None else []
    commands += [pb.Command()] * (len(body.branches) - len(commands))
    return Transaction(
        key=row.key,
        name=row.name,
        interactive=body.interactive or progress.interactive,
        state=row.state,
        begun_at=row.begun_at,
        deadline_at=deadline_at,
        deadline=deadline,
        traceparent=body.traceparent or progress.traceparent,
        tracestate=body.tracestate,
        version=row.version,
        branches=tuple(
            _branch(branch, command, row.begun_at, at, deadline)
            for branch, command in zip(body.branches, commands, strict=True)
        ),
        cancel_reason=CancelReason(progress.cancel_reason),
        decided_at=row.decided_at,
        decided=at.mono if row.decided_at is None else at.mono + min(0.0, row.decided_at - at.wall),
        decided_text=progress.decided_text,
        finished_at=row.finished_at,
        attention=row.attention,
        last_error=progress.last_error,
        history=tuple(HistoryEntry(entry.at, entry.what, entry.who, entry.reason) for entry in progress.history),
    )


# Bodies and progress are put together from serialised parts, as protobuf allows: what is the same for every transaction
# of a kind is made once, what nearly none has is left to messages. One message for all of it costs twice as much.


def _body(tx: Transaction) -> bytes:
    parts = [_IS_INTERACTIVE if tx.interactive else b"", _DEADLINE, _double(tx.deadline_at)]
    if tx.traceparent or tx.tracestate:
        parts.append(pb.Body(traceparent=tx.traceparent, tracestate=tx.tracestate).SerializeToString())
    for branch in tx.branches:
        entry = _asked_and_answered(branch)
        parts += (_BRANCH, varint(len(entry)), entry)
    return b"".join(parts)


def _asked_and_answered(branch: Branch) -> bytes:
    ask, status = branch.ask, branch.status
    request = ask.request
    parts = [
        _asked(ask.step, ask.participant, ask.methods),
        _REQUEST,
        varint(len(request)),
        request,
        _HASH,
        varint(len(ask.request_hash)),
        ask.request_hash,
        _attempts(branch.try_attempts),
        _double(branch.try_sent_at),
    ]
    if ask.try_timeout is not None or ask.metadata:
        more = pb.Branch(try_timeout=ask.try_timeout or 0.0)
        for key, value in ask.metadata:
            more.metadata.add(key=key, value=value)
        parts.append(more.SerializeToString())
    if status is not None:
        parts += (_RESERVATION, varint(branch.reservation), _ANSWERED_AT, _double(branch.try_answered_at))
        if branch.reply:
            parts += (_REPLY, varint(len(branch.reply)), branch.reply)
        if status.code or status.message or status.details or branch.given_up or branch.expires_at:
            parts.append(_rarely_answered(branch, status))
    return b"".join(parts)


def _rarely_answered(branch: Branch, status: Status) -> bytes:
    return pb.Branch(
        code=status.code,
        message=status.message,
        details=status.details,
        given_up=branch.given_up,
        expires_at=branch.expires_at or 0.0,
    ).SerializeToString()


def _progress(tx: Transaction) -> bytes:
    parts = [_INTERACTIVE_TOO if tx.interactive else b"", _DEADLINE_TOO, _double(tx.deadline_at)]
    if tx.cancel_reason or tx.last_error or tx.decided_text or tx.traceparent:
        parts.append(
            pb.Progress(
                cancel_reason=int(tx.cancel_reason),
                last_error=tx.last_error,
                decided_text=tx.decided_text,
                traceparent=tx.traceparent,
            ).SerializeToString()
        )
    if tx.decided_at is not None:
        for branch in tx.branches:
            entry = _commanded(branch.settlement, branch.attempts, branch.outcome) + _double(branch.sent_at)
            if branch.settled_at:
                entry += _SETTLED_AT + _double(branch.settled_at)
            if branch.failures or branch.last_error:
                entry += pb.Command(failures=branch.failures, last_error=branch.last_error).SerializeToString()
            parts += (_COMMAND, varint(len(entry)), entry)
    if tx.history:
        entries = [pb.HistoryEntry(at=at.at, what=at.what, who=at.who, reason=at.reason) for at in tx.history]
        parts.append(pb.Progress(history=entries).SerializeToString())
    return b"".join(parts)


@lru_cache(4096)
def _asked(step: str, participant: str, methods: Methods) -> bytes:
    """What is the same for a branch of every transaction of a kind."""
    return pb.Branch(
        step=step,
        participant=participant,
        try_method=methods.try_method,
        confirm_method=methods.confirm_method,
        cancel_method=methods.cancel_method,
    ).SerializeToString()


@lru_cache(128)
def _attempts(count: int) -> bytes:
    """How many attempts of the Try there were, up to the time of the first."""
    return pb.Branch(try_attempts=count).SerializeToString() + _SENT_AT


@lru_cache(1024)
def _commanded(settlement: Settlement, attempts: int, outcome: OutcomeKind) -> bytes:
    """How far a command is, up to the time at which it was sent first."""
    return (
        pb.Command(settlement=pb.Settlement.ValueType(settlement), attempts=attempts, outcome=outcome)
    ).SerializeToString() + _COMMAND_SENT_AT


_VARINT, _FIXED, _LENGTH = 0, 1, 2
"""How a field's value is written: a number, a double, something with its length before it."""


def _tag(message: type[Message], field: str, kind: int) -> bytes:
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | kind)


_double = Struct("<d").pack
_IS_INTERACTIVE = _tag(pb.Body, "interactive", _VARINT) + varint(1)
_DEADLINE, _BRANCH = _tag(pb.Body, "deadline", _FIXED), _tag(pb.Body, "branches", _LENGTH)
_REQUEST, _HASH = _tag(pb.Branch, "request", _LENGTH), _tag(pb.Branch, "request_hash", _LENGTH)
_SENT_AT, _ANSWERED_AT = _tag(pb.Branch, "try_sent_at", _FIXED), _tag(pb.Branch, "try_answered_at", _FIXED)
_RESERVATION, _REPLY = _tag(pb.Branch, "reservation", _VARINT), _tag(pb.Branch, "reply", _LENGTH)
_INTERACTIVE_TOO = _tag(pb.Progress, "interactive", _VARINT) + varint(1)
_DEADLINE_TOO, _COMMAND = _tag(pb.Progress, "deadline", _FIXED), _tag(pb.Progress, "commands", _LENGTH)
_COMMAND_SENT_AT, _SETTLED_AT = _tag(pb.Command, "sent_at", _FIXED), _tag(pb.Command, "settled_at", _FIXED)


def _branch(branch: pb.Branch, command: pb.Command, begun_at: float, at: Moment, deadline: float) -> Branch:
    timeout = branch.try_timeout or None
    answered = bool(branch.try_answered_at)
    started = branch.try_sent_at or begun_at
    try_deadline = deadline if timeout is None else min(deadline, at.mono + _left(started + timeout, started, at))
    expires_at = branch.expires_at or None
    return Branch(
        ask=Ask(
            step=branch.step,
            participant=branch.participant,
            methods=Methods(branch.try_method, branch.confirm_method, branch.cancel_method),
            request=branch.request,
            request_hash=branch.request_hash,
            try_timeout=timeout,
            metadata=tuple((entry.key, entry.value) for entry in branch.metadata),
        ),
        reservation=Reservation(branch.reservation),
        status=Status(branch.code, branch.message, branch.details) if answered else None,
        reply=branch.reply,
        expires_at=expires_at,
        expires=None if expires_at is None else at.mono + _left(expires_at, started, at),
        given_up=branch.given_up,
        try_attempts=branch.try_attempts,
        try_deadline=try_deadline,
        try_sent_at=branch.try_sent_at,
        try_answered_at=branch.try_answered_at,
        settlement=Settlement(command.settlement),
        outcome=OutcomeKind(command.outcome),
        attempts=command.attempts,
        failures=command.failures,
        last_error=command.last_error,
        sent_at=command.sent_at,
        settled_at=command.settled_at,
    )


def _left(until: float, since: float, at: Moment) -> float:
    """Seconds left until a wall time, never more than there were at first."""
    return min(until - at.wall, until - since)
