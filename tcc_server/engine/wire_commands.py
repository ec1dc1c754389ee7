"""Commands and outcomes between the core's values and the wire's messages."""

from __future__ import annotations

from collections.abc import Collection

import grpc

from tcc import wire
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.core.messages import OutcomeArrived
from tcc_server.core.model import Decision, OutcomeKind, Transaction

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
    return Command(
        namespace=tx.key.namespace,
        gid=tx.key.gid,
        branch=ask.step,
        phase=_PHASE[decision],
        methods=transaction_pb2.Methods(
            try_method=ask.methods.try_method,
            confirm_method=ask.methods.confirm_method,
            cancel_method=ask.methods.cancel_method,
        ),
        request=ask.request,
        request_hash=ask.request_hash,
        traceparent=tx.traceparent,
        tracestate=tx.tracestate,
        attempt=attempt,
        participant=ask.participant,
        try_reply=branch.reply if ask.participant in bridged and len(branch.reply) <= TRY_REPLY_LIMIT else b"",
    )


def read_outcome(outcome: Outcome) -> OutcomeArrived | None:
    """The signal in an outcome; None where its phase or kind is nobody's."""
    phase = _DECISION.get(outcome.phase)
    kind = _KINDS.get(outcome.kind)
    if phase is None or kind is None or kind is OutcomeKind.NONE:
        return None
    hint = None
    if outcome.HasField("retry_after"):
        hint = outcome.retry_after.seconds + outcome.retry_after.nanos / 1e9
    return OutcomeArrived(
        step=outcome.branch,
        phase=phase,
        kind=kind,
        text=_text(outcome),
        retry_after=hint,
        unreachable=kind is OutcomeKind.RETRY and outcome.reason == wire.UNREACHABLE,
    )


def _text(outcome: Outcome) -> str:
    parts = [_CODES.get(outcome.code, "") if outcome.code else "", outcome.reason, outcome.message]
    return ": ".join(part for part in parts if part)[:1024]
