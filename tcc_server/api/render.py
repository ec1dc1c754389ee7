"""From the core's transaction to the wire's: what clients, `tcc tx` and operators see."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from tcc import wire
from tcc.v1 import transaction_pb2 as pb
from tcc_server.core import rules
from tcc_server.core.decide import is_trying
from tcc_server.core.model import Branch, Decision, Reservation, Settlement, State, Status, Transaction

_STATE = {
    State.TRYING: pb.STATE_TRYING,
    State.CONFIRMING: pb.STATE_CONFIRMING,
    State.CONFIRMED: pb.STATE_CONFIRMED,
    State.CANCELLING: pb.STATE_CANCELLING,
    State.CANCELLED: pb.STATE_CANCELLED,
    State.MIXED: pb.STATE_MIXED,
}
STATE_OF = {number: state for state, number in _STATE.items()}
_DECISION = {None: pb.DECISION_UNSPECIFIED, Decision.CONFIRM: pb.DECISION_CONFIRM, Decision.CANCEL: pb.DECISION_CANCEL}
_COMMAND = {Decision.CONFIRM: pb.PHASE_CONFIRM, Decision.CANCEL: pb.PHASE_CANCEL}
_RESULT = {
    Reservation.PENDING: pb.TRY_RESULT_UNSPECIFIED,
    Reservation.RESERVED: pb.TRY_RESULT_RESERVED,
    Reservation.REFUSED: pb.TRY_RESULT_REFUSED,
    Reservation.DECLINED: pb.TRY_RESULT_REFUSED,
    Reservation.UNKNOWN: pb.TRY_RESULT_UNKNOWN,
}


def transaction(tx: Transaction, *, with_branches: bool = True, with_payloads: bool = False) -> pb.Transaction:
    """The transaction as a message."""
    message = pb.Transaction(
        namespace=tx.key.namespace,
        gid=tx.key.gid,
        name=tx.name,
        state=_STATE[tx.state],
        version=tx.version,
        attention=tx.attention,
        last_error=tx.last_error,
        decision=_DECISION[tx.decision],
        cancel_reason=pb.CancelReason.ValueType(int(tx.cancel_reason)),
        interactive=tx.interactive,
        traceparent=tx.traceparent,
    )
    _stamp(message.begun_at, tx.begun_at)
    _stamp(message.deadline, tx.deadline_at)
    if tx.decided_at is not None:
        _stamp(message.decided_at, tx.decided_at)
    if tx.finished_at is not None:
        _stamp(message.finished_at, tx.finished_at)
    if with_branches:
        for branch in tx.branches:
            _branch(message.branches.add(), tx, branch, with_payloads)
        _history(message, tx)
    return message


def cancelled(tx: Transaction) -> pb.Cancelled:
    """Why a transaction was cancelled: the branches that stood in the way."""
    message = pb.Cancelled(gid=tx.key.gid, reason=pb.CancelReason.ValueType(int(tx.cancel_reason)))
    for branch in tx.branches:
        if _stood_in_the_way(tx, branch):
            status = branch.status or Status()
            if branch.reservation in (Reservation.UNKNOWN, Reservation.PENDING):
                status = Status(rules.DEADLINE_EXCEEDED, _unanswered(status), b"")
            message.refusals.add(
                step=branch.ask.step,
                participant=branch.ask.participant,
                method=branch.ask.methods.try_method,
                status=_status(status),
                marked=branch.reservation is Reservation.REFUSED,
                result=pb.TRY_RESULT_REFUSED
                if branch.reservation in (Reservation.REFUSED, Reservation.DECLINED)
                else pb.TRY_RESULT_UNKNOWN,
            )
    return message


def _unanswered(last: Status) -> str:
    if last.code in (0, rules.DEADLINE_EXCEEDED):
        return last.message or "the Try was not answered in time"
    name = wire.STATUS_BY_NUMBER[last.code].name if last.code in wire.STATUS_BY_NUMBER else str(last.code)
    return f"no answer in time that settles it; the last was {name}: {last.message}"


def _stood_in_the_way(tx: Transaction, branch: Branch) -> bool:
    if branch.reservation is Reservation.DECLINED:
        return True
    if branch.reservation is Reservation.REFUSED:
        return not tx.interactive or tx.cancel_reason.name == "REFUSED"
    if branch.reservation is Reservation.RESERVED:
        return False
    # Unanswered: a reason where time ran out, and an innocent bystander where another branch refused.
    return tx.cancel_reason.name == "DEADLINE"


def _branch(message: pb.Branch, tx: Transaction, branch: Branch, with_payloads: bool) -> None:
    ask = branch.ask
    message.step = ask.step
    message.participant = ask.participant
    message.methods.try_method = ask.methods.try_method
    message.methods.confirm_method = ask.methods.confirm_method
    message.methods.cancel_method = ask.methods.cancel_method
    message.try_result = _RESULT[branch.reservation]
    message.marked = branch.reservation is Reservation.REFUSED
    if branch.status is not None:
        message.try_status.CopyFrom(_status(branch.status))
    if with_payloads:
        message.try_reply = branch.reply
    message.try_attempts = branch.try_attempts
    _stamp(message.try_sent_at, branch.try_sent_at)
    if not is_trying(branch):
        _stamp(message.try_answered_at, branch.try_answered_at)
    if branch.expires_at is not None:
        _stamp(message.expires_at, branch.expires_at)
    if tx.decision is not None and branch.settlement is not Settlement.NOTHING_OWED:
        message.command = _COMMAND[tx.decision]
    message.command_attempts = branch.attempts
    message.command_failures = branch.failures
    _stamp(message.command_sent_at, branch.sent_at)
    message.outcome = pb.OutcomeKind.ValueType(int(branch.outcome))
    _stamp(message.settled_at, branch.settled_at)
    message.last_error = branch.last_error


def _history(message: pb.Transaction, tx: Transaction) -> None:
    entries = [(entry.at, entry.what, entry.who, entry.reason) for entry in tx.history]
    entries.append((tx.begun_at, "begun", "", ""))
    if tx.decided_at is not None and tx.decision is not None:
        entries.append((tx.decided_at, "decided", "", ": ".join(filter(None, (tx.decision.value, tx.decided_text)))))
    if tx.finished_at is not None:
        entries.append((tx.finished_at, "finished", "", tx.state.value))
    for at, what, who, reason in sorted(entries, key=lambda entry: entry[0]):
        _stamp(message.history.add(what=what, who=who, reason=reason).at, at)


def _status(status: Status) -> pb.CallStatus:
    return pb.CallStatus(code=status.code, message=status.message, details=status.details)


def _stamp(stamp: Timestamp, at: float) -> None:
    if at:
        micros = round(at * 1e6)
        stamp.seconds, stamp.nanos = micros // 1_000_000, micros % 1_000_000 * 1000
