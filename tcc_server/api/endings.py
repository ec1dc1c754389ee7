"""How a call ends otherwise than with an answer: a decision to cancel, a participant's status, an error.

A decision to cancel is ABORTED with a `Cancelled` in its details, so that no client can take it for a success by not
looking.
"""

from __future__ import annotations

from typing import NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from tcc import wire
from tcc.v1 import transaction_pb2
from tcc_server.api import render
from tcc_server.api.errors import Failure, failure_of
from tcc_server.api.fitting import cut, fitting
from tcc_server.core.model import Decision, State, Transaction

_log = structlog.get_logger(__name__)


class Ended(Exception):
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, message: str, details: bytes) -> None:
        super().__init__(message)
        self.failure = Failure(code, message, details)


def raise_if_cancelled(tx: Transaction) -> None:
    """Raises Ended where it was decided so, with all that stood in the way."""
    if tx.decision is not Decision.CANCEL:
        return
    cancelled = fitting(render.cancelled(tx))
    words = [_in_words(refusal) for refusal in cancelled.refusals] or [tx.decided_text or tx.cancel_reason.name.lower()]
    mixed = tx.state is State.MIXED
    message = cut(f"transaction {tx.key.gid} was cancelled: {'; '.join(words)}")
    if mixed:
        message = cut(f"transaction {tx.key.gid} was to be cancelled and is MIXED: {tx.last_error}")
    reason = wire.MIXED if mixed else "TRANSACTION_CANCELLED"
    info = error_details_pb2.ErrorInfo(reason=reason, domain=wire.DOMAIN, metadata={"gid": tx.key.gid})
    status = status_pb2.Status(code=grpc.StatusCode.ABORTED.value[0], message=message)
    for detail in (info, cancelled):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    raise Ended(grpc.StatusCode.ABORTED, message, status.SerializeToString())


def _in_words(refusal: transaction_pb2.Refusal) -> str:
    verb = "refused" if refusal.result == transaction_pb2.TRY_RESULT_REFUSED else "did not answer"
    code = wire.STATUS_BY_NUMBER[refusal.status.code].name
    return f"{refusal.participant} {verb} {refusal.method} (step {refusal.step}): {code}: {refusal.status.message}"


def failure_to_tell(error: Exception) -> Failure:
    """The status that says what an error says; a bug is logged."""
    failure = error.failure if isinstance(error, Ended) else failure_of(error)
    if failure is not None:
        return failure
    _log.error("request_failed", exc_info=error)
    message = "the manager failed at this request: its log says why"
    code = grpc.StatusCode.INTERNAL
    return Failure(code, message, wire.error_details(code, message, "BUG"))


async def abort(context: grpc.aio.ServicerContext[object, object], error: Exception) -> NoReturn:
    """Ends a call with the status that says what an error says."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    failure = failure_to_tell(error)
    trailers = list(context.trailing_metadata() or ())
    if failure.details:
        trailers.append((wire.STATUS_DETAILS, failure.details))
    await context.abort(failure.code, failure.message, tuple(trailers))
