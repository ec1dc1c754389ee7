"""How a verdict of the fence becomes an answer: a Try's status, or the outcome of a command.

The only place that knows CONTRACT.md's codes, reasons and marks for a participant's answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import grpc

from tcc import wire
from tcc.fence import FenceBusy, Record, Refusal, Rule, State, Verdict
from tcc.participant._call import NotABranch
from tcc.participant._context import Trailers
from tcc.v1 import participant_pb2, transaction_pb2

_DONE = (Rule.RUN, Rule.DONE, Rule.RECORD)
_MARK = ((wire.REFUSED, "1"),)
_TEXT_LIMIT = (
    1024  # on its way each byte may become three; trailers over 8 KiB may be refused, and with them the answer
)


class TryAnswer(NamedTuple):
    """What a Try is answered with.

    Attributes:
        code: the gRPC status.
        message: the status message.
        details: the `grpc-status-details-bin` trailer, or empty.
        trailers: the other trailing metadata; `tcc-refused: 1` where the participant marks its refusal.
        reply: the serialised reply, where the code is OK.
    """

    code: grpc.StatusCode
    message: str = ""
    details: bytes = b""
    trailers: Trailers = ()
    reply: bytes = b""


class HandlerStopped(Exception):
    """A handler ended without an effect and without refusing: rolled back, and answered with this status.

    Args:
        code: the gRPC status.
        text: the status message.
        details: the `grpc-status-details-bin` trailer, or empty.
        trailers: the other trailing metadata.
    """

    def __init__(self, code: grpc.StatusCode, text: str, details: bytes = b"", trailers: Trailers = ()) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.details = details
        self.trailers = trailers


def reasoned(code: grpc.StatusCode, text: str, reason: str, **facts: str) -> Refusal:
    """A refusal with the toolkit's own reason."""
    text = bounded(text)
    return Refusal(code, text, wire.error_details(code, text, reason, **facts))


def bounded(text: str) -> str:
    """A status message that fits into a call's trailers: what is over 1 KiB of UTF-8 is cut."""
    encoded = text.encode(errors="replace")  # a file's name may hold what no UTF-8 can say
    if len(encoded) > _TEXT_LIMIT:
        return encoded[: _TEXT_LIMIT - 3].decode(errors="ignore") + "..."
    return encoded.decode()


def try_answer(verdict: Verdict, clock: Callable[[], float], trailers: Trailers = ()) -> TryAnswer:
    """The answer to a Try.

    Args:
        verdict: the fence's.
        clock: unix seconds.
        trailers: what the handler set, where it ran.
    """
    record = verdict.record
    if verdict.rule is Rule.RUN and record is not None and record.refusal is None:  # as nearly always
        return TryAnswer(grpc.StatusCode.OK, "", b"", trailers, record.reply or b"")
    match verdict:
        case Verdict(Rule.LATE_TRY):
            return _marked(
                reasoned(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "this branch was cancelled before its Try arrived",
                    wire.LATE_TRY,
                )
            )
        case Verdict(Rule.MISMATCH, Record() as record):
            # Marked: all attempts of one branch carry the same hash, so none of this transaction's holds anything here.
            return _marked(reasoned(grpc.StatusCode.INVALID_ARGUMENT, _mismatch(record), wire.PAYLOAD_MISMATCH))
        case Verdict(_, Record(refusal=Refusal() as refusal)):
            return _marked(refusal, trailers)
        case Verdict(Rule.REPLY, Record(state=State.TRIED, reply=bytes() as reply, expires_at=float() as expires_at)):
            left = max(0, int((expires_at - clock()) * 1000))
            return TryAnswer(grpc.StatusCode.OK, trailers=((wire.EXPIRES_IN, str(left)),), reply=reply)
        case Verdict(_, Record(reply=bytes() as reply)):
            return TryAnswer(grpc.StatusCode.OK, trailers=trailers, reply=reply)
    raise AssertionError(f"a Try cannot end in {verdict}")


def not_a_branch(error: NotABranch) -> TryAnswer:
    """The answer to a call that does not say which branch it is for."""
    code, text = grpc.StatusCode.INVALID_ARGUMENT, bounded(str(error))
    return TryAnswer(code, text, wire.error_details(code, text, wire.NOT_A_BRANCH))


def busy_answer(busy: FenceBusy) -> TryAnswer:
    """The answer to a Try of a branch on which another delivery is at work."""
    code = grpc.StatusCode.UNAVAILABLE
    return TryAnswer(code, str(busy), wire.busy_details(code, str(busy), busy.retry_after))


def stopped_answer(stopped: HandlerStopped) -> TryAnswer:
    """The answer to a Try that was rolled back: unknown to the manager, which will ask again."""
    return TryAnswer(stopped.code, stopped.text, stopped.details, stopped.trailers)


def settle(outcome: participant_pb2.Outcome, verdict: Verdict) -> bytes:
    """Writes what became of a command into its outcome; gives the status details by which gRPC says the same."""
    record = verdict.record
    if verdict.rule in _DONE:
        outcome.kind = transaction_pb2.OUTCOME_KIND_DONE
        return b""
    match verdict.rule:
        case Rule.NO_TRY:
            outcome.kind = transaction_pb2.OUTCOME_KIND_NO_TRY
            outcome.fence_state = "" if record is None else record.state.value
            outcome.message = "there is no reservation to confirm"
            return _settled_details(outcome, wire.NO_TRY)
        case Rule.CONTRADICTED if record is not None:
            outcome.kind = transaction_pb2.OUTCOME_KIND_CONTRADICTED
            outcome.fence_state = outcome.reason = record.state.value
            outcome.message = f"this branch is {record.state.value} already"
            return _settled_details(outcome, wire.CONTRADICTED)
        case Rule.MISMATCH if record is not None:
            code = grpc.StatusCode.INVALID_ARGUMENT
            _retry(outcome, code, _mismatch(record))
            return wire.error_details(code, outcome.message, wire.PAYLOAD_MISMATCH)
        case _:
            raise AssertionError(f"a command cannot end in {verdict}")


def settle_busy(outcome: participant_pb2.Outcome, busy: FenceBusy) -> bytes:
    """Another delivery of the command is at work; see `settle`."""
    outcome.kind = transaction_pb2.OUTCOME_KIND_BUSY
    outcome.code = grpc.StatusCode.UNAVAILABLE.value[0]
    outcome.message = str(busy)
    outcome.retry_after.CopyFrom(wire.seconds(busy.retry_after))
    return wire.busy_details(grpc.StatusCode.UNAVAILABLE, outcome.message, busy.retry_after)


def settle_stopped(outcome: participant_pb2.Outcome, stopped: HandlerStopped) -> bytes:
    """The command was rolled back, or its commit is unknown; see `settle`."""
    _retry(outcome, stopped.code, stopped.text)
    hint = wire.retry_delay(stopped.details)
    if hint is not None:
        outcome.retry_after.CopyFrom(wire.seconds(max(0.0, hint)))
    # A handler may pass on the details of a transaction of its own. Their reason must not be read as this branch's; and
    # an answer without any could be taken for one that gRPC made because nobody was there.
    if stopped.details and wire.error_info(stopped.details) is None:
        return stopped.details
    return wire.error_details(stopped.code, stopped.text, wire.HANDLER_FAILED)


def _settled_details(outcome: participant_pb2.Outcome, reason: str) -> bytes:
    outcome.code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
    return wire.error_details(
        grpc.StatusCode.FAILED_PRECONDITION,
        outcome.message,
        reason,
        fence_state=outcome.fence_state,
        reason=outcome.reason,
    )


def _marked(refusal: Refusal, trailers: Trailers = ()) -> TryAnswer:
    return TryAnswer(refusal.code, refusal.text, refusal.details, trailers + _MARK)


def _retry(outcome: participant_pb2.Outcome, code: grpc.StatusCode, text: str) -> None:
    outcome.kind = transaction_pb2.OUTCOME_KIND_RETRY
    outcome.code = code.value[0]
    outcome.message = text


def _mismatch(record: Record) -> str:
    return (
        f"this branch is known with another action or request (its action is {record.action or 'not known'}): "
        "give each branch its own gid and step"
    )
