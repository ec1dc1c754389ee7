"""The one context that handlers of Try, Confirm and Cancel get, whichever way the call came.

By gRPC, by command or within the process: `abort`, metadata and `time_remaining` behave as a `grpc.aio` server's own
context does. What needs a live call of its own (reading and writing messages) a unary handler has no use for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping
from typing import Any, NamedTuple, NoReturn, TypeAlias

import grpc
import grpc.aio

from tcc import wire
from tcc.errors import UsageError
from tcc.participant._branch import Branch
from tcc.participant._call import Call

_DETAILS_LIMIT = 3072  # trailers over 8 KiB may be refused on their way, and with them the answer
_FOREVER_MS = 10 * 365 * 24 * 3600 * 1000
_log = logging.getLogger("tcc.participant")

Trailers: TypeAlias = tuple[tuple[str, str | bytes], ...]


class Aborted(grpc.aio.AbortError):
    """What `abort` raises; the status is in the context."""


class Metadatum(NamedTuple):
    """One entry of a call's metadata."""

    key: str
    value: str | bytes


class InvocationMetadata(grpc.aio.Metadata):
    """The call's metadata: as `grpc.aio.Metadata`, and its entries have `key` and `value` as a server's have."""

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        for key, value in super().__iter__():
            yield Metadatum(key, value)

    def keys(self) -> KeysView[str]:
        """The keys, each once; gives `dict(metadata)` its sense on every version of grpcio."""
        return dict.fromkeys(key for key, _ in self).keys()


class PhaseContext(grpc.aio.ServicerContext[Any, Any]):
    """A `grpc.aio.ServicerContext` for a handler, which runs more than once only where its first runs were rolled back.

    Args:
        call: what it is for.
        time_limit: when the handler is stopped, on the monotonic clock.
        transport: the gRPC context underneath, for the peer's identity; None where there is none.
    """

    # Of the class, so that a run in which nothing of it happens does not pay for it.
    _code: grpc.StatusCode | None = None
    _details = ""
    _trailers: Trailers = ()
    _aborted = False
    _over = False
    _callbacks: tuple[Callable[[Any], None], ...] = ()
    _task: asyncio.Task[Any] | None = None
    _reply: bytes | None = None
    _branch: Branch | None = None
    touched = False
    """The handler, or its end of time, said something here."""
    expired = False
    """The handler ran out of time."""

    def __init__(
        self, call: Call, time_limit: float, transport: grpc.aio.ServicerContext[Any, Any] | None = None
    ) -> None:
        self._call = call
        self.time_limit = time_limit
        self._transport = transport

    # What handlers call.

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """Ends the handler. A Try is refused by a code of `Refused.CODES`; with other codes nothing is known of it.

        Args:
            code: the status, not OK.
            details: the status message.
            trailing_metadata: replaces what was set before, unless empty.
        """
        if self._aborted:
            raise grpc.aio.UsageError("Abort already called!")
        code = _status(code)
        if code is grpc.StatusCode.OK:
            raise UsageError("abort with OK ends nothing: return the reply instead")
        self._aborted = self.touched = True
        self._code = code
        self._details = details or self._details
        if trailing_metadata:
            self._trailers = _trailers(trailing_metadata)
        raise Aborted("Locally aborted.")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """As `abort`, with code, details and trailing metadata of the status."""
        await self.abort(status.code, status.details or "", status.trailing_metadata or ())

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Trailing metadata of the answer. Of it, only a Try's `tcc-expires-in` is kept for repeated calls."""
        self._trailers = _trailers(trailing_metadata)
        self.touched = True

    def trailing_metadata(self) -> Any:
        """What was set."""
        return self._trailers

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status with which the handler ends; one that is not OK ends it as `abort` does."""
        self._code = _status(code)
        self.touched = True

    def code(self) -> grpc.StatusCode:
        """The status that was set, or OK."""
        return self._code or grpc.StatusCode.OK

    def set_details(self, details: str) -> None:
        """The status message."""
        self._details = details

    def details(self) -> str:
        """The status message that was set."""
        return self._details

    def invocation_metadata(self) -> grpc.aio.Metadata:
        """The call's metadata. The client's own entries come with a Try, not with Confirm and Cancel."""
        return InvocationMetadata(*self._call.metadata())

    def time_remaining(self) -> float:
        """Seconds until the handler is stopped and rolled back."""
        return max(0.0, self.time_limit - time.monotonic())

    def peer(self) -> str:
        """Where the call came from."""
        peer = self._call.peer
        return peer if isinstance(peer, str) else peer()

    def peer_identities(self) -> Iterable[bytes] | None:
        """The gRPC peer's identities; None where there is no gRPC call."""
        return None if self._transport is None else self._transport.peer_identities()

    def peer_identity_key(self) -> str | None:
        """Which property identifies the gRPC peer; None where there is no gRPC call."""
        return None if self._transport is None else self._transport.peer_identity_key()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """The gRPC call's authentication; empty where there is none."""
        return {} if self._transport is None else self._transport.auth_context()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back with this context when the run is over: after the commit, or the rollback."""
        self._callbacks = (*self._callbacks, callback)

    def cancelled(self) -> bool:
        """Whether the handler was stopped. It learns that by `asyncio.CancelledError` too."""
        return self.expired

    def done(self) -> bool:
        """Whether the run is over."""
        return self._over

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Accepted and dropped: a manager does not pass it on, and a command has none."""

    def set_compression(self, compression: grpc.Compression) -> None:
        """Accepted and ignored: the call's channel decides."""

    def disable_next_message_compression(self) -> None:
        """Accepted and ignored: the call's channel decides."""

    async def read(self) -> NoReturn:
        """Not for unary methods."""
        raise grpc.aio.UsageError("Try, Confirm and Cancel are unary: the request is the handler's argument")

    async def write(self, message: object) -> NoReturn:
        """Not for unary methods."""
        raise grpc.aio.UsageError("Try, Confirm and Cancel are unary: return the reply")

    # What the runtime calls.

    @property
    def failed(self) -> bool:
        """Whether the handler ended the call itself with a status other than OK, even if it then went on."""
        return self._code is not None and (self._aborted or self._code is not grpc.StatusCode.OK)

    @property
    def status_details(self) -> bytes:
        """The `grpc-status-details-bin` among the trailers; empty where there is none, or it is over 3 KiB."""
        for key, value in self._trailers:
            if key == wire.STATUS_DETAILS and isinstance(value, bytes) and len(value) <= _DETAILS_LIMIT:
                return value
        return b""

    @property
    def own_trailers(self) -> Trailers:
        """The trailers but for the status details, and for the mark, which only the fence may set."""
        if not self._trailers:
            return ()
        return tuple(entry for entry in self._trailers if entry[0] not in (wire.STATUS_DETAILS, wire.REFUSED))

    @property
    def expires_in(self) -> float | None:
        """Seconds that the reservation holds, as the handler's `tcc-expires-in` says in ms; None where it says none.

        One that cannot be read is trusted for no time, and one of more than ten years is for ever: so managers take it.
        """
        for key, value in self._trailers:
            if key == wire.EXPIRES_IN and isinstance(value, str):
                if not value.isdecimal():
                    return 0.0
                too_long = len(value) > len(str(_FOREVER_MS)) or int(value) > _FOREVER_MS
                return None if too_long else int(value) / 1000
        return None

    @property
    def branch(self) -> Branch:
        """What `tcc.branch()` tells in this run."""
        if self._branch is None:
            call, visit = self._call, self._call.visit
            self._branch = Branch(
                visit.namespace, visit.gid, visit.branch, visit.phase, call.attempt, call.deadline, self._reply
            )
        return self._branch

    def start(self, task: asyncio.Task[Any], reply: bytes | None) -> None:
        """A run of the handler begins. One that came before was rolled back, and what it said is void.

        Args:
            task: in which it runs.
            reply: the Try's, in Confirm and Cancel.
        """
        if self._task is not None:
            self._tell()
            self._code, self._details, self._trailers, self._branch = None, "", (), None
            self._aborted = self.touched = self.expired = False
        self._task = task
        self._reply = reply

    def expire(self) -> None:
        """The handler's time is over: stops it, once."""
        if not self.expired and self._task is not None:
            self.expired = self.touched = True
            self._task.cancel()

    def finish(self) -> None:
        """The run is over: tells those who asked to be told."""
        self._over = True
        if self._callbacks:
            self._tell()

    def _tell(self) -> None:
        callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            try:
                callback(self)
            except (Exception, asyncio.CancelledError):  # the latter is the result of a future that was cancelled
                _log.exception("a done callback failed")  # the answer stands; a callback has no say in it


# What no answer can carry is the handler's error, here and now: later it would be that of all the answers of a list.


def _status(code: grpc.StatusCode | int) -> grpc.StatusCode:
    status = wire.STATUS_BY_NUMBER.get(code) if isinstance(code, int) else code
    if not isinstance(status, grpc.StatusCode):
        raise UsageError(f"{code!r} is no gRPC status code: give one of grpc.StatusCode")
    return status


def _trailers(metadata: Iterable[tuple[str, str | bytes]]) -> Trailers:
    trailers = tuple((key, value) for key, value in metadata)
    for key, value in trailers:
        if not _is_text(key) or not (isinstance(value, bytes) or _is_text(value)):
            raise UsageError(f"({key!r}, {value!r}) cannot be trailing metadata: a key is text, a value text or bytes")
    return trailers


def _is_text(value: object) -> bool:
    """Whether UTF-8 can say it."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False
