"""Between a transaction and its row: `encode` for appends, `decode` for what was read.

Timers do not survive in rows: wall time stands there, and `decode` puts what is left of a deadline back on the
monotonic clock of the reader.
"""

from __future__ import annotations

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


def _body(tx: Transaction) -> bytes:
    body = pb.Body(
        interactive=tx.interactive,
        deadline=tx.deadline_at,
        traceparent=tx.traceparent,
        tracestate=tx.tracestate,
    )
    for branch in tx.branches:
        ask = branch.ask
        stored = body.branches.add()
        stored.step = ask.step
        stored.participant = ask.participant
        stored.try_method, stored.confirm_method, stored.cancel_method = ask.methods
        stored.request = ask.request
        stored.request_hash = ask.request_hash
        stored.try_attempts = branch.try_attempts
        stored.try_sent_at = branch.try_sent_at
        if ask.try_timeout is not None:
            stored.try_timeout = ask.try_timeout
        for key, value in ask.metadata:
            stored.metadata.add(key=key, value=value)
        if branch.status is not None:
            _put_answer(stored, branch, branch.status)
    return body.SerializeToString()


def _put_answer(stored: pb.Branch, branch: Branch, status: Status) -> None:
    stored.reservation = pb.Reservation.ValueType(branch.reservation)
    stored.code = status.code
    stored.message = status.message
    stored.details = status.details
    stored.reply = branch.reply
    stored.try_answered_at = branch.try_answered_at
    stored.given_up = branch.given_up
    if branch.expires_at is not None:
        stored.expires_at = branch.expires_at


def _progress(tx: Transaction) -> bytes:
    progress = pb.Progress(
        cancel_reason=int(tx.cancel_reason),
        last_error=tx.last_error,
        decided_text=tx.decided_text,
        interactive=tx.interactive,
        deadline=tx.deadline_at,
        traceparent=tx.traceparent,
    )
    if tx.decided_at is not None:
        for branch in tx.branches:
            stored = progress.commands.add()
            stored.settlement = pb.Settlement.ValueType(branch.settlement)
            stored.attempts = branch.attempts
            stored.sent_at = branch.sent_at
            stored.settled_at = branch.settled_at
            stored.outcome = branch.outcome
            if branch.failures:
                stored.failures = branch.failures
            if branch.last_error:
                stored.last_error = branch.last_error
    for entry in tx.history:
        progress.history.add(at=entry.at, what=entry.what, who=entry.who, reason=entry.reason)
    return progress.SerializeToString()


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
