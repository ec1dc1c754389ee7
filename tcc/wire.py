"""The words of the wire that both ends use: metadata keys, trailers and error reasons.

CONTRACT.md says what each means. A key that is written here is written nowhere else.
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

# Metadata towards participants.
NAMESPACE: Final = "tcc-namespace"
GID: Final = "tcc-gid"
BRANCH: Final = "tcc-branch"
PHASE: Final = "tcc-phase"
ATTEMPT: Final = "tcc-attempt"
DEADLINE: Final = "tcc-deadline"
REQUEST_HASH: Final = "tcc-request-hash"
CONFIRM_METHOD: Final = "tcc-confirm"
CANCEL_METHOD: Final = "tcc-cancel"
TRY_REPLY: Final = "tcc-try-reply-bin"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

# Trailers of a Try's answer.
REFUSED: Final = "tcc-refused"
EXPIRES_IN: Final = "tcc-expires-in"
TRY_RESULT: Final = "tcc-try-result"
"""Set by the manager where a Try's status is the participant's: `reserved`, `refused` or `unknown`."""

# Metadata that a client puts on a planned or enlisted Try.
STEP: Final = "tcc-step"

STATUS_DETAILS: Final = "grpc-status-details-bin"

DOMAIN: Final = "tcc"
"""Domain of every `google.rpc.ErrorInfo` of the toolkit."""

# Reasons of ErrorInfo, participants.
CONTRADICTED: Final = "CONTRADICTED"
NO_TRY: Final = "NO_TRY"
BUSY: Final = "BUSY"
LATE_TRY: Final = "LATE_TRY"
PAYLOAD_MISMATCH: Final = "PAYLOAD_MISMATCH"
WRONG_METHODS: Final = "WRONG_METHODS"
HANDLER_FAILED: Final = "HANDLER_FAILED"
UNREACHABLE: Final = "UNREACHABLE"
"""Reason of an outcome that the manager's side makes where nobody was there to answer."""
NOT_A_BRANCH: Final = "NOT_A_BRANCH"
UNDECODABLE: Final = "UNDECODABLE"

# Reasons of ErrorInfo, the manager.
GID_REUSED: Final = "GID_REUSED"
"""Its fact `difference` says what differs, in words."""
MIXED: Final = "MIXED"

STATUS_BY_NUMBER: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}
"""gRPC status codes by their number on the wire."""


def error_details(code: grpc.StatusCode, message: str, reason: str, /, **facts: str) -> bytes:
    """A serialised `google.rpc.Status` with one ErrorInfo of domain `tcc`: the value of `grpc-status-details-bin`.

    Args:
        code: the status that the details belong to.
        message: the status message.
        reason: one of this module's reasons.
        facts: the ErrorInfo's metadata.
    """
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=facts))
    details: bytes = status_pb2.Status(code=code.value[0], message=message, details=[info]).SerializeToString()
    return details


def busy_details(code: grpc.StatusCode, message: str, retry_after: float) -> bytes:
    """As `error_details` with reason BUSY, and a RetryInfo.

    Args:
        code: the status that the details belong to.
        message: the status message.
        retry_after: seconds after which another delivery makes sense.
    """
    info, hint = any_pb2.Any(), any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=BUSY, domain=DOMAIN))
    hint.Pack(error_details_pb2.RetryInfo(retry_delay=seconds(retry_after)))
    details: bytes = status_pb2.Status(code=code.value[0], message=message, details=[info, hint]).SerializeToString()
    return details


def seconds(length: float) -> duration_pb2.Duration:
    """A `google.protobuf.Duration` of so many seconds, zero or more."""
    nanos = round(length * 1e9)
    return duration_pb2.Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def error_info(details: bytes) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo of domain `tcc` in a `grpc-status-details-bin` value; None where there is none."""
    for item in _details(details):
        info = error_details_pb2.ErrorInfo()
        if _unpacks(item, info) and info.domain == DOMAIN:
            return info
    return None


def retry_delay(details: bytes) -> float | None:
    """Seconds that a `google.rpc.RetryInfo` in a `grpc-status-details-bin` value asks for; None where there is none."""
    for item in _details(details):
        info = error_details_pb2.RetryInfo()
        if _unpacks(item, info):
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None


def _unpacks(item: any_pb2.Any, message: Message) -> bool:
    """Whether the item is such a message, which then has its content."""
    try:
        return bool(item.Unpack(message))
    except Exception:  # it says that it is one, and is damaged: a stranger's again
        return False


def _details(details: bytes) -> list[any_pb2.Any]:
    if not details:
        return []
    status = status_pb2.Status()
    try:
        status.ParseFromString(details)
    except Exception:  # a stranger's trailer: whatever it is, it is not ours
        return []
    return list(status.details)
