"""Between a transaction and its row: `encode` for appends, `decode` for what was read.

Timers do not survive in rows: wall time stands there, and `decode` puts what is left of a deadline back on the
monotonic clock of the reader.
"""

from __future__ import annotations

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


def encode(tx: Transaction, *, with_body: bool, wake: float | None, at: Moment, write_id: bytes) -> Row:
    """The row that replaces the stored one of `tx.version`.

    Args:
        wake: when an owner must look again, on the monotonic clock of `at`.
    """
    return Row(
        key=tx.key,
        version=tx.version + 1,
        state=tx.state,
        name=tx.name,
        wake_at=None if wake is None else at.wall + (wake - at.mono),
        begun_at=tx.begun_at,
        decided_at=tx.decided_at,
        finished_at=tx.finished_at,
        attention=tx.attention,
        write_id=write_id,
        body=_body(tx) if with_body else None,
        progress=_progress(tx),
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
        ask, status = branch.ask, branch.status or Status()
        body.branches.add(
            step=ask.step,
            participant=ask.participant,
            try_method=ask.methods.try_method,
            confirm_method=ask.methods.confirm_method,
            cancel_method=ask.methods.cancel_method,
            request=ask.request,
            request_hash=ask.request_hash,
            try_timeout=ask.try_timeout or 0.0,
            metadata=[pb.Metadata(key=key, value=value) for key, value in ask.metadata],
            reservation=int(branch.reservation),
            code=status.code,
            message=status.message,
            details=status.details,
            reply=branch.reply,
            expires_at=branch.expires_at or 0.0,
            try_attempts=branch.try_attempts,
            try_sent_at=branch.try_sent_at,
            try_answered_at=branch.try_answered_at,
            given_up=branch.given_up,
        )
    return body.SerializeToString()


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
            progress.commands.add(
                settlement=int(branch.settlement),
                attempts=branch.attempts,
                failures=branch.failures,
                last_error=branch.last_error,
                sent_at=branch.sent_at,
                settled_at=branch.settled_at,
                outcome=int(branch.outcome),
            )
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
