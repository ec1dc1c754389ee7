"""A phase's call as it arrives, by gRPC metadata or as a command; from here on it is the same thing."""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from tcc import wire
from tcc.errors import TccError
from tcc.fence import Phase, Visit
from tcc.ids import is_id, problem_with_id
from tcc.tracing import Tags, TraceParent
from tcc.v1 import participant_pb2, transaction_pb2

Metadata: TypeAlias = Collection[tuple[str, str | bytes]]
Peer: TypeAlias = str | Callable[[], str]
"""Where a call came from, or who can say it: few handlers ask."""

_COMMAND_PHASES = {transaction_pb2.PHASE_CONFIRM: Phase.CONFIRM, transaction_pb2.PHASE_CANCEL: Phase.CANCEL}
_PHASE_WORDS = {phase: phase.value.encode() for phase in Phase}
_NO_TRACE: Final = TraceParent()
_NEEDED: Final = (wire.NAMESPACE, wire.GID, wire.BRANCH, wire.PHASE, wire.ATTEMPT, wire.REQUEST_HASH)
Said: TypeAlias = Mapping[str, bytes]
"""Metadata by key; of two values of a key, the first: what a client adds cannot stand in for the manager's own."""


class NotABranch(TccError):
    """The call does not say which branch it is for, or says it in a way that cannot be read."""


@dataclass(slots=True)
class Call:
    """One delivery of one phase.

    Attributes:
        visit: what the fence is asked.
        attempt: the manager's count.
        deadline: the transaction's, unix seconds; None where the caller did not say.
        methods: paths of Try, Confirm and Cancel as the caller named them; empty strings for those that it did not.
        request: the serialised request.
        metadata: gives it as a handler sees it.
        timeout: seconds that the caller waits; None: no limit.
        peer: where the call came from.
    """

    visit: Visit
    attempt: int
    deadline: float | None
    methods: tuple[str, str, str]
    request: bytes
    metadata: Callable[[], Metadata]
    timeout: float | None
    peer: Peer


def from_metadata(
    phase: Phase, try_method: str, request: bytes, metadata: Metadata, timeout: float | None, peer: Peer
) -> Call:
    """Reads a call of one of the three methods.

    Args:
        phase: that the called method stands for.
        try_method: path of the action's Try; empty where it is not known.
        request: the serialised request.
        metadata: the call's.
        timeout: seconds that the caller waits.
        peer: where the call came from.

    Raises:
        NotABranch: an entry is missing or cannot be read; the message names it.
    """
    said: dict[str, bytes] = {}
    for key, value in metadata:
        if key.startswith("tcc-") and isinstance(value, str):
            said.setdefault(key, value.encode("utf-8", "replace"))
    methods = (try_method, _text(said, wire.CONFIRM_METHOD), _text(said, wire.CANCEL_METHOD))
    return _call(phase, methods, request, said, lambda: metadata, timeout, peer)


def said_in(item: participant_pb2.TryStreamRequest.Item) -> Said:
    """The metadata of an item of a list. Each entry costs, so it is gone through once."""
    return {entry.key: entry.value for entry in reversed(item.metadata)}


def trace_in(said: Said) -> TraceParent:
    """The trace context among metadata."""
    if wire.TRACEPARENT not in said:
        return _NO_TRACE
    return TraceParent(_text(said, wire.TRACEPARENT), _text(said, wire.TRACESTATE))


def tags_in(said: Said) -> Tags:
    """What a span says of a call with this metadata."""
    return Tags.of((key, _text(said, key)) for key in said)


def from_item(
    item: participant_pb2.TryStreamRequest.Item, methods: tuple[str, str, str], said: Said, peer: Peer
) -> Call:
    """Reads a Try that came in a list.

    Args:
        item: as the manager sent it.
        methods: paths of Try, Confirm and Cancel, from it.
        said: what `said_in` found in it.
        peer: where it came from.

    Raises:
        NotABranch: as `from_metadata`.
    """
    waits = item.timeout
    timeout: float | None = waits.seconds + waits.nanos / 1e9
    if not timeout and not item.HasField("timeout"):
        timeout = None
    return _call(Phase.TRY, methods, item.request, said, partial(_metadata_of_item, item), timeout, peer)


def from_command(command: participant_pb2.Command, timeout: float | None, peer: Peer) -> Call:
    """Reads a command.

    Raises:
        NotABranch: an id or the phase cannot be read; the message names it.
    """
    phase = _COMMAND_PHASES.get(command.phase)
    if phase is None:
        raise NotABranch(f"a command's phase is PHASE_CONFIRM or PHASE_CANCEL, not {command.phase}")
    named = command.methods
    methods = (named.try_method, named.confirm_method, named.cancel_method)
    visit = Visit(command.namespace, command.gid, command.branch, phase, methods[0], command.request_hash)
    _check_ids(visit)
    metadata = partial(_metadata_of_command, command, phase)
    return Call(visit, command.attempt, None, methods, command.request, metadata, timeout, peer)


def _call(
    phase: Phase,
    methods: tuple[str, str, str],
    request: bytes,
    said: Said,
    metadata: Callable[[], Metadata],
    timeout: float | None,
    peer: Peer,
) -> Call:
    try:
        if said[wire.PHASE] != _PHASE_WORDS[phase]:
            raise NotABranch(f"{wire.PHASE} is {_text(said, wire.PHASE)!r} on a call of the {phase} method")
        deadline = None
        if phase is Phase.TRY or wire.DEADLINE in said:
            deadline = int(said[wire.DEADLINE]) / 1000
        attempt, request_hash = int(said[wire.ATTEMPT]), unhexlify(said[wire.REQUEST_HASH])
        namespace, gid, branch = said[wire.NAMESPACE], said[wire.GID], said[wire.BRANCH]
    except KeyError:
        missing = [key for key in (*_NEEDED, wire.DEADLINE) if key not in said]
        if phase is not Phase.TRY:
            missing.remove(wire.DEADLINE)
        raise NotABranch(
            f"this method is a branch of a TCC transaction and the call has no {', '.join(missing)}: "
            "call it through a TCC manager"
        ) from None
    except ValueError as error:
        raise NotABranch(f"{wire.REQUEST_HASH}, {wire.ATTEMPT} or {wire.DEADLINE} cannot be read: {error}") from None
    visit = Visit(
        namespace.decode("utf-8", "replace"),
        gid.decode("utf-8", "replace"),
        branch.decode("utf-8", "replace"),
        phase,
        methods[0],
        request_hash,
    )
    _check_ids(visit)
    return Call(visit, attempt, deadline, methods, request, metadata, timeout, peer)


def _text(said: Said, key: str) -> str:
    return said.get(key, b"").decode("utf-8", "replace")


def _check_ids(visit: Visit) -> None:
    if is_id(visit.namespace) and is_id(visit.gid) and is_id(visit.branch):
        return
    for kind, value in ((wire.NAMESPACE, visit.namespace), (wire.GID, visit.gid), (wire.BRANCH, visit.branch)):
        problem = problem_with_id(kind, value)
        if problem is not None:
            raise NotABranch(problem)


def _metadata_of_item(item: participant_pb2.TryStreamRequest.Item) -> Metadata:
    metadata: list[tuple[str, str | bytes]] = [
        (entry.key, entry.value if entry.key.endswith("-bin") else entry.value.decode(errors="replace"))
        for entry in item.metadata
    ]
    metadata.append((wire.CONFIRM_METHOD, item.methods.confirm_method))
    metadata.append((wire.CANCEL_METHOD, item.methods.cancel_method))
    return metadata


def _metadata_of_command(command: participant_pb2.Command, phase: Phase) -> Metadata:
    metadata: list[tuple[str, str | bytes]] = [
        (wire.NAMESPACE, command.namespace),
        (wire.GID, command.gid),
        (wire.BRANCH, command.branch),
        (wire.PHASE, phase.value),
        (wire.ATTEMPT, str(command.attempt)),
        (wire.REQUEST_HASH, command.request_hash.hex()),
    ]
    if command.traceparent:
        metadata.append((wire.TRACEPARENT, command.traceparent))
    if command.tracestate:
        metadata.append((wire.TRACESTATE, command.tracestate))
    return metadata
