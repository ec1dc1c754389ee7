"""Commands and outcomes between the core's values and the wire's messages."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

import grpc

from tcc import wire
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.core.messages import OutcomeArrived
from tcc_server.core.model import Decision, Methods, OutcomeKind, Transaction

_PHASE = {Decision.CONFIRM: transaction_pb2.PHASE_CONFIRM, Decision.CANCEL: transaction_pb2.PHASE_CANCEL}
_DECISION = {phase: decision for decision, phase in _PHASE.items()}
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_KINDS = {kind.value: kind for kind in OutcomeKind}


TRY_REPLY_LIMIT = 4096
"""Bytes; a longer reply would not fit into a call's metadata."""


def command(tx: Transaction, position: int, attempt: int, bridged: Collection[str] = ()) -> Command:
    """The command that the decision owes to a branch.

    Args:
        bridged: participants without the SDK, which remember no Try reply: theirs get it with the command.
    """
    branch = tx.branches[position]
    ask = branch.ask
    decision = tx.decision
    assert decision is not None  # noqa: S101  a command without a decision must never leave
    key = tx.key
    message = Command.FromString(_constant(key.namespace, ask.step, decision, ask.methods, ask.participant, attempt))
    message.gid = key.gid
    message.request = ask.request
    message.request_hash = ask.request_hash
    if tx.traceparent:
        message.traceparent = tx.traceparent
        message.tracestate = tx.tracestate
    if ask.participant in bridged and len(branch.reply) <= TRY_REPLY_LIMIT:
        message.try_reply = branch.reply
    return message


@lru_cache(4096)
def _constant(namespace: str, step: str, decision: Decision, methods: Methods, participant: str, attempt: int) -> bytes:
    """What is the same for a command of every transaction of a kind: reading it costs a quarter of setting it."""
    return Command(
        namespace=namespace,
        branch=step,
        phase=_PHASE[decision],
        methods=transaction_pb2.Methods(
            try_method=methods.try_method, confirm_method=methods.confirm_method, cancel_method=methods.cancel_method
        ),
        participant=participant,
        attempt=attempt,
    ).SerializeToString()


def read_outcome(outcome: Outcome) -> OutcomeArrived | None:
    """The signal in an outcome; None where its phase or kind is nobody's."""
    phase = _DECISION.get(outcome.phase)
    kind = _KINDS.get(outcome.kind)
    if phase is None or kind is None or kind is OutcomeKind.NONE:
        return None
    hint = None
    if outcome.HasField("retry_after"):
        hint = outcome.retry_after.seconds + outcome.retry_after.nanos / 1e9
    code, reason, words = outcome.code, outcome.reason, outcome.message
    return OutcomeArrived(
        outcome.branch,
        phase,
        kind,
        _text(code, reason, words) if code or reason or words else "",
        hint,
        kind is OutcomeKind.RETRY and reason == wire.UNREACHABLE,
    )


def _text(code: int, reason: str, words: str) -> str:
    parts = [_CODES.get(code, "") if code else "", reason, words]
    return ": ".join(part for part in parts if part)[:1024]
