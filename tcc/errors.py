"""Every error that the SDK raises.

    TccError
    ├── TransactionCancelled      the transaction was decided Cancel; carries the refusals
    ├── TransactionMixed          a participant broke its promise; a person must look
    ├── OutcomeUnknown            no answer was had; ask again by gid
    ├── GidReused                 the gid names another transaction already
    ├── ManagerUnavailable        nothing was sent, or nothing can have begun
    ├── ManagerError              the manager refused the call; carries its code and reason
    ├── BranchRefused             one Try was not reserved (also a grpc.aio.AioRpcError)
    ├── Refused                   raised by a handler to refuse its Try
    └── UsageError                the calling code or the service's proto is wrong; no retry helps

    NeverExecutedWarning          a planned call was thrown away; a warning, not an error

All of the errors pickle, so that they survive a process pool and a task queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import grpc
import grpc.aio


class TccError(Exception):
    """Base of everything that the SDK raises."""


class UsageError(TccError):
    """The calling code, the service's proto or its handlers are wrong: the message says where and what to do."""


class NeverExecutedWarning(RuntimeWarning):
    """A call was planned and then thrown away without `Manager.execute`: nothing of it was sent."""


class TransactionMixed(TccError):
    """The transaction ended MIXED: at least one participant contradicts the decision.

    Attributes:
        gid: the transaction.
    """

    def __init__(self, gid: str, message: str = "") -> None:
        super().__init__(
            message
            or f"transaction {gid} is MIXED: a participant broke its promise; see `tcc tx show {gid}`, mend it by hand"
        )
        self.gid = gid

    def __reduce__(self) -> tuple[Callable[..., TransactionMixed], tuple[Any, ...]]:
        return type(self), (self.gid, str(self))


class OutcomeUnknown(TccError):
    """The manager may or may not have taken the call. Ask again with the same gid: that can do no harm.

    Attributes:
        gid: the transaction.
    """

    def __init__(self, gid: str, message: str = "") -> None:
        super().__init__(
            message or f"no answer about transaction {gid}: it may have been decided either way; ask again by its gid"
        )
        self.gid = gid

    def __reduce__(self) -> tuple[Callable[..., OutcomeUnknown], tuple[Any, ...]]:
        return type(self), (self.gid, str(self))


class GidReused(TccError):
    """The gid names a transaction with other content.

    Attributes:
        gid: the transaction.
        difference: what differs, in words.
    """

    def __init__(self, gid: str, difference: str) -> None:
        super().__init__(f"gid {gid} is in use by another transaction: {difference}")
        self.gid = gid
        self.difference = difference

    def __reduce__(self) -> tuple[Callable[..., GidReused], tuple[Any, ...]]:
        return type(self), (self.gid, self.difference)


class ManagerUnavailable(TccError):
    """The manager cannot be reached, and nothing of the transaction can have begun."""


class ManagerError(TccError):
    """The manager refused the call.

    Attributes:
        code: the gRPC status code.
        reason: the stable reason from its ErrorInfo, or "".
    """

    def __init__(self, code: grpc.StatusCode, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[Callable[..., ManagerError], tuple[Any, ...]]:
        return type(self), (self.code, str(self), self.reason)


class BranchRefused(TccError, grpc.aio.AioRpcError):
    """One branch is not reserved: `code()`, `details()` and `trailing_metadata()` are the participant's own.

    Attributes:
        gid: the transaction.
        step: the branch.
        participant: the participant's name.
        method: path of the Try.
        known: the participant answered and refused; False where no answer was had before the Try's timeout.
        marked: the participant itself says that it holds nothing, so the transaction may go on without it.
    """

    def __init__(
        self,
        gid: str,
        step: str,
        participant: str,
        method: str,
        code: grpc.StatusCode,
        details: str,
        trailing_metadata: grpc.aio.Metadata | None = None,
        *,
        known: bool = True,
        marked: bool = False,
    ) -> None:
        grpc.aio.AioRpcError.__init__(
            self, code, grpc.aio.Metadata(), trailing_metadata or grpc.aio.Metadata(), details, None
        )
        self.gid = gid
        self.step = step
        self.participant = participant
        self.method = method
        self.known = known
        self.marked = marked

    def __str__(self) -> str:
        verb = "refused" if self.known else "did not answer"
        return f"{self.participant} {verb} {self.method} (step {self.step}): {self.code().name}: {self.details()}"

    def __repr__(self) -> str:
        return f"BranchRefused({self})"

    def __reduce__(self) -> tuple[Callable[..., BranchRefused], tuple[Any, ...]]:
        return _branch_refused, (
            self.gid,
            self.step,
            self.participant,
            self.method,
            self.code(),
            self.details(),
            tuple(self.trailing_metadata()),
            self.known,
            self.marked,
        )


def _branch_refused(
    gid: str,
    step: str,
    participant: str,
    method: str,
    code: grpc.StatusCode,
    details: str,
    trailers: tuple[tuple[str, str | bytes], ...],
    known: bool,
    marked: bool,
) -> BranchRefused:
    metadata = grpc.aio.Metadata(*trailers)
    return BranchRefused(gid, step, participant, method, code, details, metadata, known=known, marked=marked)


class TransactionCancelled(TccError):
    """The transaction was decided Cancel: nothing of it will stay.

    Attributes:
        gid: the transaction.
        reason: REFUSED, DEADLINE, CLIENT or EXPIRY.
        refusals: one BranchRefused for each branch that was known to stand in the way when Cancel was decided, in the
            order of the steps. A plan is decided by its first refusal, so others may be missing. Empty where the
            client itself cancelled.
    """

    def __init__(self, gid: str, refusals: tuple[BranchRefused, ...] = (), reason: str = "") -> None:
        why = "; ".join(str(refusal) for refusal in refusals) or reason.lower() or "cancelled"
        super().__init__(f"transaction {gid} was cancelled: {why}")
        self.gid = gid
        self.refusals = refusals
        self.reason = reason

    def __reduce__(self) -> tuple[Callable[..., TransactionCancelled], tuple[Any, ...]]:
        return type(self), (self.gid, self.refusals, self.reason)


class Refused(TccError):
    """Raised by a Try handler to refuse: nothing is reserved, and the client gets this code and text.

        if balance < request.amount:
            raise tcc.Refused("insufficient funds")

    In Confirm and Cancel it cannot refuse (the decision stands): the handler is rolled back and tried again.

    Attributes:
        code: one of `Refused.CODES`.
        text: for the client.
    """

    CODES: ClassVar[frozenset[grpc.StatusCode]] = frozenset(
        {
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.OUT_OF_RANGE,
            grpc.StatusCode.ALREADY_EXISTS,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.ABORTED,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.UNIMPLEMENTED,
        }
    )
    """The codes that refuse. The others say that nothing is known, and would be tried again."""

    def __init__(self, text: str, code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION) -> None:
        if code not in self.CODES:
            raise UsageError(
                f"{code.name} does not refuse a Try, it says that nothing is known: use one of Refused.CODES"
            )
        super().__init__(text)
        self.code = code
        self.text = text

    def __reduce__(self) -> tuple[Callable[..., Refused], tuple[Any, ...]]:
        return type(self), (self.text, self.code)
