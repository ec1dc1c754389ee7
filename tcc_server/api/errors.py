"""Every error of the manager, mapped to gRPC in one place: a status, and an ErrorInfo whose reason is stable."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from tcc import wire
from tcc_server.api.fitting import cut
from tcc_server.engine import errors
from tcc_server.log.seam import LogUnavailable

Code = grpc.StatusCode


class BadRequest(Exception):
    """The request cannot be taken; nothing was done. The message names the field and says what to do."""

    def __init__(
        self, message: str, reason: str = "BAD_REQUEST", code: grpc.StatusCode = Code.INVALID_ARGUMENT
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code


OF_CONFIGURATION = frozenset({"UNKNOWN_PARTICIPANT", "LIMIT_EXCEEDED"})
"""Reasons of a BadRequest that another configuration would not give."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A status with its details."""

    code: grpc.StatusCode
    message: str
    details: bytes


_ENGINE: dict[type[errors.EngineError], tuple[grpc.StatusCode, str]] = {
    errors.UnknownTransaction: (Code.NOT_FOUND, "UNKNOWN_TRANSACTION"),
    errors.GidInUse: (Code.ALREADY_EXISTS, "GID_REUSED"),
    errors.StepInUse: (Code.ALREADY_EXISTS, "STEP_REUSED"),
    errors.AlreadyDecided: (Code.FAILED_PRECONDITION, "ALREADY_DECIDED"),
    errors.NotInteractive: (Code.FAILED_PRECONDITION, "NOT_INTERACTIVE"),
    errors.TooMuch: (Code.INVALID_ARGUMENT, "LIMIT_EXCEEDED"),
    errors.Overloaded: (Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
    errors.Rejected: (Code.INVALID_ARGUMENT, "REJECTED_BY_LOG"),
    errors.Unreadable: (Code.DATA_LOSS, "UNREADABLE"),
    errors.Draining: (Code.UNAVAILABLE, "DRAINING"),
    errors.Unsettled: (Code.UNAVAILABLE, "LOG_UNAVAILABLE"),
}


def failure_of(error: Exception) -> Failure | None:
    """The status for an error of a request, of the engine or of the log; None for any other (a bug)."""
    facts: dict[str, str] = {}
    match error:
        case BadRequest():
            code, reason = error.code, error.reason
        case errors.GidInUse():
            code, reason = _ENGINE[errors.GidInUse]
            facts["difference"] = cut(error.difference)
        case errors.EngineError():
            code, reason = _ENGINE[type(error)]
        case LogUnavailable():
            code, reason = Code.UNAVAILABLE, "LOG_UNAVAILABLE"
        case _:
            return None
    message = cut(str(error))
    return Failure(code, message, wire.error_details(code, message, reason, **facts))
