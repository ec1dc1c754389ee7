"""The manager's statuses as the SDK's errors: all of it, in this one place.

The law: a status that may hide a transaction that goes on is *unanswered*, and never becomes an error that says
otherwise. Whoever sends decides what an unanswered call means (`_repeat`).
"""

from __future__ import annotations

from typing import Final

import grpc
import grpc.aio
from google.rpc import status_pb2

from tcc import wire
from tcc.client._views import cancel_reason
from tcc.errors import BranchRefused, GidReused, ManagerError, TccError, TransactionCancelled, TransactionMixed
from tcc.v1 import transaction_pb2

_Code = grpc.StatusCode

UNANSWERED: Final = frozenset(
    {
        _Code.UNAVAILABLE,
        _Code.DEADLINE_EXCEEDED,
        _Code.RESOURCE_EXHAUSTED,
        _Code.ABORTED,
        _Code.CANCELLED,
        _Code.UNKNOWN,
        _Code.INTERNAL,
        _Code.DATA_LOSS,
    }
)
"""Of a call that can change something: it may have been carried out. It is sent again with the same ids."""

UNREAD: Final = frozenset({_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED, _Code.RESOURCE_EXHAUSTED, _Code.CANCELLED})
"""Of a call that only reads: worth asking again."""


def verdict(gid: str, error: grpc.aio.AioRpcError) -> TccError | None:
    """What the manager said about the transaction itself; None if this status says nothing about it.

    A verdict is final, whatever became of earlier attempts.
    """
    details = status_details(error)
    code = error.code()
    info = wire.error_info(details)
    if info is not None and info.reason == wire.MIXED:
        return TransactionMixed(gid, error.details() or "")
    if code is _Code.ABORTED and (cancelled := _cancelled(details)) is not None:
        return cancelled_error(cancelled)
    if info is None:
        return None
    if code is _Code.ALREADY_EXISTS and info.reason == wire.GID_REUSED:
        return GidReused(gid, info.metadata.get("difference") or error.details() or "its content differs")
    return None


def manager_error(error: grpc.aio.AioRpcError) -> ManagerError:
    """A refusal of the call by the manager."""
    info = wire.error_info(status_details(error))
    code = error.code()
    text = error.details() or "no text"
    return ManagerError(code, f"the manager answered {code.name}: {text}", info.reason if info else "")


def cancelled_error(message: transaction_pb2.Cancelled) -> TransactionCancelled:
    """The error of a transaction that was decided Cancel."""
    refusals = tuple(_refusal(message.gid, refusal) for refusal in message.refusals)
    return TransactionCancelled(message.gid, refusals, cancel_reason(message.reason) or "")


def _refusal(gid: str, message: transaction_pb2.Refusal) -> BranchRefused:
    trailers = grpc.aio.Metadata()
    if message.status.details:
        trailers.add(wire.STATUS_DETAILS, message.status.details)
    if message.marked:
        trailers.add(wire.REFUSED, "1")
    return BranchRefused(
        gid,
        message.step,
        message.participant,
        message.method,
        wire.STATUS_BY_NUMBER.get(message.status.code, _Code.UNKNOWN),
        message.status.message,
        trailers,
        known=message.result == transaction_pb2.TRY_RESULT_REFUSED,
        marked=message.marked,
    )


def branch_error(
    gid: str, step: str, participant: str, method: str, error: grpc.aio.AioRpcError
) -> BranchRefused | None:
    """What the participant said to a Try; None where the status is the manager's own."""
    trailers = error.trailing_metadata() or grpc.aio.Metadata()
    result = trailers.get(wire.TRY_RESULT)
    if result is None:
        return None
    return BranchRefused(
        gid,
        step,
        participant,
        method,
        error.code(),
        error.details() or "",
        trailers,
        known=result == "refused",
        marked=trailers.get(wire.REFUSED) == "1",
    )


def is_participants(error: grpc.aio.AioRpcError) -> bool:
    """The status of this Try is the participant's, not the manager's."""
    return (error.trailing_metadata() or grpc.aio.Metadata()).get(wire.TRY_RESULT) is not None


def status_details(error: grpc.aio.AioRpcError) -> bytes:
    """The value of `grpc-status-details-bin`; empty where there is none."""
    value = (error.trailing_metadata() or grpc.aio.Metadata()).get(wire.STATUS_DETAILS)
    return value if isinstance(value, bytes) else b""


def _cancelled(details: bytes) -> transaction_pb2.Cancelled | None:
    if not details:
        return None
    status = status_pb2.Status()
    try:
        status.ParseFromString(details)
    except Exception:  # a stranger's trailer: whatever it is, it is not ours
        return None
    for item in status.details:
        message = transaction_pb2.Cancelled()
        if item.Is(transaction_pb2.Cancelled.DESCRIPTOR) and item.Unpack(message):
            return message
    return None
