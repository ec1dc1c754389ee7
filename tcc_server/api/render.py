"""From the core's transaction to the wire's: what clients, `tcc tx` and operators see.

A transaction has a dozen messages within it, nearly all of them times, and each costs more to make and to copy into its
place than to serialise. So it is put together from serialised parts, which protobuf allows to be concatenated: messages
are made of scalars alone.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tcc import wire
from tcc.streams import varint
from tcc.v1 import transaction_pb2 as pb
from tcc.v1.manager_pb2 import ExecuteResponse, ExecuteStreamResponse
from tcc_server.core import rules
from tcc_server.core.decide import is_trying
from tcc_server.core.model import (
    Branch,
    Decision,
    Methods,
    OutcomeKind,
    Reservation,
    Settlement,
    State,
    Status,
    Transaction,
)

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
_WORD = {decision: decision.value for decision in Decision}
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
    return pb.Transaction.FromString(serialised(tx, with_branches=with_branches, with_payloads=with_payloads))


def serialised(tx: Transaction, *, with_branches: bool = True, with_payloads: bool = False) -> bytes:
    """The transaction as the bytes of its message."""
    decision = tx.decision
    gid = tx.key.gid.encode()
    parts = [
        _standing(
            tx.key.namespace, tx.state, tx.version, decision, tx.cancel_reason, tx.interactive, tx.attention, tx.name
        ),
        _GID,
        varint(len(gid)),
        gid,
    ]
    if tx.traceparent or tx.last_error:
        parts.append(pb.Transaction(traceparent=tx.traceparent, last_error=tx.last_error).SerializeToString())
    if tx.begun_at:
        parts += (_BEGUN_AT, _stamp(tx.begun_at))
    if tx.deadline_at:
        parts += (_DEADLINE, _stamp(tx.deadline_at))
    if tx.decided_at:
        parts += (_DECIDED_AT, _stamp(tx.decided_at))
    if tx.finished_at:
        parts += (_FINISHED_AT, _stamp(tx.finished_at))
    if with_branches:
        command = pb.PHASE_UNSPECIFIED if decision is None else _COMMAND[decision]
        for branch in tx.branches:
            entry = _branch(branch, command, with_payloads)
            parts += (_BRANCHES, varint(len(entry)), entry)
        for at, entry in _history(tx, decision):
            if at:
                entry += _ENTRY_AT + _stamp(at)
            parts += (_HISTORY, varint(len(entry)), entry)
    return b"".join(parts)


def answer_to_plan(number: int, executed: bytes) -> bytes:
    """The bytes of an `ExecuteStreamResponse.Item` with the response that has a transaction of these bytes.

    Args:
        number: the item's id.
    """
    response = _TRANSACTION + varint(len(executed))
    head = _ANSWER_ID + varint(number) + _RESPONSE + varint(len(response) + len(executed))
    return head + response + executed


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


@lru_cache(1024)
def _standing(
    namespace: str,
    state: State,
    version: int,
    decision: Decision | None,
    cancel_reason: int,
    interactive: bool,
    attention: bool,
    name: str,
) -> bytes:
    """What many transactions have in common at the same point of their lives."""
    return pb.Transaction(
        namespace=namespace,
        state=_STATE[state],
        version=version,
        decision=_DECISION[decision],
        cancel_reason=pb.CancelReason.ValueType(cancel_reason),
        interactive=interactive,
        attention=attention,
        name=name,
    ).SerializeToString()


def _branch(branch: Branch, command: pb.Phase.ValueType, with_payloads: bool) -> bytes:
    ask, status = branch.ask, branch.status
    parts = [
        _asked(ask.step, ask.participant, ask.methods),
        _counts(
            branch.reservation,
            branch.try_attempts,
            pb.PHASE_UNSPECIFIED if branch.settlement is Settlement.NOTHING_OWED else command,
            branch.attempts,
            branch.failures,
            branch.outcome,
        ),
    ]
    if with_payloads and branch.reply:
        parts += (_TRY_REPLY, varint(len(branch.reply)), branch.reply)
    if branch.last_error:
        parts.append(pb.Branch(last_error=branch.last_error).SerializeToString())
    if status is not None:
        if status.code or status.message or status.details:
            said = _status(status).SerializeToString()
            parts += (_TRY_STATUS, varint(len(said)), said)
        else:
            parts.append(_TRY_OK)
    if branch.try_sent_at:
        parts += (_TRY_SENT_AT, _stamp(branch.try_sent_at))
    if branch.try_answered_at and not is_trying(branch):
        parts += (_TRY_ANSWERED_AT, _stamp(branch.try_answered_at))
    if branch.expires_at:
        parts += (_EXPIRES_AT, _stamp(branch.expires_at))
    if branch.sent_at:
        parts += (_COMMAND_SENT_AT, _stamp(branch.sent_at))
    if branch.settled_at:
        parts += (_SETTLED_AT, _stamp(branch.settled_at))
    return b"".join(parts)


@lru_cache(1024)
def _counts(
    reservation: Reservation,
    try_attempts: int,
    command: pb.Phase.ValueType,
    attempts: int,
    failures: int,
    outcome: OutcomeKind,
) -> bytes:
    """What is the same for most branches at the same point of their lives."""
    return pb.Branch(
        try_result=_RESULT[reservation],
        marked=reservation is Reservation.REFUSED,
        try_attempts=try_attempts,
        command=command,
        command_attempts=attempts,
        command_failures=failures,
        outcome=pb.OutcomeKind.ValueType(outcome),
    ).SerializeToString()


@lru_cache(4096)
def _asked(step: str, participant: str, methods: Methods) -> bytes:
    """What is the same for a branch of every transaction of a kind."""
    return pb.Branch(
        step=step,
        participant=participant,
        methods=pb.Methods(
            try_method=methods.try_method, confirm_method=methods.confirm_method, cancel_method=methods.cancel_method
        ),
    ).SerializeToString()


def _history(tx: Transaction, decision: Decision | None) -> list[tuple[float, bytes]]:
    """When, and the rest of each entry, oldest first."""
    entries = [(tx.begun_at, _entry("begun", "", ""))]
    if tx.decided_at is not None and decision is not None:
        word = _WORD[decision]
        text = f"{word}: {tx.decided_text}" if tx.decided_text else word
        entries.append((tx.decided_at, _entry("decided", "", text)))
    if tx.finished_at is not None:
        entries.append((tx.finished_at, _entry("finished", "", tx.state.value)))
    if tx.history:
        entries = [(each.at, _entry(each.what, each.who, each.reason)) for each in tx.history] + entries
    entries.sort(key=itemgetter(0))
    return entries


@lru_cache(256)
def _entry(what: str, who: str, reason: str) -> bytes:
    return pb.HistoryEntry(what=what, who=who, reason=reason).SerializeToString()


def _status(status: Status) -> pb.CallStatus:
    return pb.CallStatus(code=status.code, message=status.message, details=status.details)


@lru_cache(256)  # one event gives several of a transaction's times
def _stamp(at: float) -> bytes:
    """A Timestamp with its length before it."""
    seconds, micros = divmod(round(at * 1e6), 1_000_000)
    stamp = Timestamp(seconds=seconds, nanos=micros * 1000).SerializeToString()
    return varint(len(stamp)) + stamp


def _tag(message: type[Message], field: str) -> bytes:
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)  # 2: something with a length


_BEGUN_AT, _DEADLINE = _tag(pb.Transaction, "begun_at"), _tag(pb.Transaction, "deadline")
_DECIDED_AT, _FINISHED_AT = _tag(pb.Transaction, "decided_at"), _tag(pb.Transaction, "finished_at")
_BRANCHES, _HISTORY = _tag(pb.Transaction, "branches"), _tag(pb.Transaction, "history")
_TRY_SENT_AT, _TRY_ANSWERED_AT = _tag(pb.Branch, "try_sent_at"), _tag(pb.Branch, "try_answered_at")
_COMMAND_SENT_AT, _SETTLED_AT = _tag(pb.Branch, "command_sent_at"), _tag(pb.Branch, "settled_at")
_EXPIRES_AT, _TRY_STATUS = _tag(pb.Branch, "expires_at"), _tag(pb.Branch, "try_status")
_GID, _TRY_REPLY = _tag(pb.Transaction, "gid"), _tag(pb.Branch, "try_reply")
_TRY_OK = _TRY_STATUS + varint(0)  # there, and empty
_TRANSACTION, _RESPONSE = _tag(ExecuteResponse, "transaction"), _tag(ExecuteStreamResponse.Item, "response")
_ANSWER_ID = varint(ExecuteStreamResponse.Item.DESCRIPTOR.fields_by_name["id"].number << 3)
_ENTRY_AT = _tag(pb.HistoryEntry, "at")
