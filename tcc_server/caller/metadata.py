"""The metadata that travels with a participant's own methods, in and out; CONTRACT.md lists it."""

from __future__ import annotations

from collections.abc import Iterable

from tcc import wire
from tcc.tracing import TraceParent
from tcc.v1 import participant_pb2, transaction_pb2
from tcc_server.caller.seam import TryCall

Entry = tuple[str, str | bytes]

_PHASE_NAMES = {transaction_pb2.PHASE_CONFIRM: "confirm", transaction_pb2.PHASE_CANCEL: "cancel"}


_FOREVER_MS = 10 * 365 * 24 * 3600 * 1000
"""What expires in more than ten years does not expire."""


def for_try(call: TryCall, trace: TraceParent) -> tuple[Entry, ...]:
    """The metadata of one attempt of a Try that is called as a gRPC method, the client's own included.

    Args:
        trace: of the span that calls.
    """
    methods = call.ask.methods
    return (
        *of_try(call, trace),
        (wire.CONFIRM_METHOD, methods.confirm_method),
        (wire.CANCEL_METHOD, methods.cancel_method),
    )


def of_try(call: TryCall, trace: TraceParent) -> tuple[Entry, ...]:
    """The same without the methods, which an item of a list names beside its metadata."""
    ask = call.ask
    own: list[Entry] = [
        (wire.NAMESPACE, call.key.namespace),
        (wire.GID, call.key.gid),
        (wire.BRANCH, ask.step),
        (wire.PHASE, "try"),
        (wire.ATTEMPT, str(call.attempt)),
        (wire.DEADLINE, str(int(call.deadline_at * 1000))),
        (wire.REQUEST_HASH, ask.request_hash.hex()),
    ]
    own += trace.metadata()
    own += ((key, value if key.endswith("-bin") else value.decode()) for key, value in ask.metadata)
    return tuple(own)


def for_command(command: participant_pb2.Command, trace: TraceParent) -> tuple[Entry, ...]:
    """The metadata of a Confirm or Cancel that is called as a gRPC method.

    Args:
        trace: of the span that calls.
    """
    own: list[Entry] = [
        (wire.NAMESPACE, command.namespace),
        (wire.GID, command.gid),
        (wire.BRANCH, command.branch),
        (wire.PHASE, _PHASE_NAMES[command.phase]),
        (wire.ATTEMPT, str(command.attempt)),
        (wire.REQUEST_HASH, command.request_hash.hex()),
    ]
    if command.try_reply:
        own.append((wire.TRY_REPLY, command.try_reply))
    return (*own, *trace.metadata())


def is_marked(trailers: Iterable[Entry]) -> bool:
    """Whether the participant itself says that it refused."""
    return any(key == wire.REFUSED and value == "1" for key, value in trailers)


def expires_in(trailers: Iterable[Entry]) -> float | None:
    """Seconds for which the reservation holds, from `tcc-expires-in` (ms). None: it does not say."""
    for key, value in trailers:
        if key == wire.EXPIRES_IN and isinstance(value, str):
            if not value.isdecimal():
                return 0.0  # it does expire, and nobody knows when: trust it for no time at all
            if len(value) > len(str(_FOREVER_MS)) or int(value) > _FOREVER_MS:
                return None
            return int(value) / 1000
    return None


def status_details(trailers: Iterable[Entry]) -> bytes:
    """The raw `grpc-status-details-bin`, or nothing."""
    for key, value in trailers:
        if key == wire.STATUS_DETAILS and isinstance(value, bytes):
            return value
    return b""
