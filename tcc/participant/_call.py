"""A phase's call as it arrives, by gRPC metadata or as a command; from here on it is the same thing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from tcc import wire
from tcc.errors import TccError
from tcc.fence import Phase, Visit
from tcc.ids import problem_with_id
from tcc.v1 import participant_pb2, transaction_pb2

Metadata: TypeAlias = Collection[tuple[str, str | bytes]]

_COMMAND_PHASES = {transaction_pb2.PHASE_CONFIRM: Phase.CONFIRM, transaction_pb2.PHASE_CANCEL: Phase.CANCEL}


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
        metadata: as a handler sees it.
        timeout: seconds that the caller waits; None: no limit.
        peer: where the call came from.
    """

    visit: Visit
    attempt: int
    deadline: float | None
    methods: tuple[str, str, str]
    request: bytes
    metadata: Metadata
    timeout: float | None
    peer: str


def from_metadata(
    phase: Phase, try_method: str, request: bytes, metadata: Metadata, timeout: float | None, peer: str
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
    said: dict[str, str] = {}
    for key, value in metadata:
        if key.startswith("tcc-") and isinstance(value, str):
            said.setdefault(key, value)
    needed = [wire.NAMESPACE, wire.GID, wire.BRANCH, wire.PHASE, wire.ATTEMPT, wire.REQUEST_HASH]
    if phase is Phase.TRY:
        needed.append(wire.DEADLINE)
    missing = [key for key in needed if key not in said]
    if missing:
        raise NotABranch(
            f"this method is a branch of a TCC transaction and the call has no {', '.join(missing)}: "
            "call it through a TCC manager"
        )
    if said[wire.PHASE] != phase:
        raise NotABranch(f"{wire.PHASE} is {said[wire.PHASE]!r} on a call of the {phase} method")
    try:
        request_hash = bytes.fromhex(said[wire.REQUEST_HASH])
        attempt = int(said[wire.ATTEMPT])
        deadline = int(said[wire.DEADLINE]) / 1000 if wire.DEADLINE in said else None
    except ValueError as error:
        raise NotABranch(f"{wire.REQUEST_HASH}, {wire.ATTEMPT} or {wire.DEADLINE} cannot be read: {error}") from None
    visit = Visit(said[wire.NAMESPACE], said[wire.GID], said[wire.BRANCH], phase, try_method, request_hash)
    _check_ids(visit)
    methods = (try_method, said.get(wire.CONFIRM_METHOD, ""), said.get(wire.CANCEL_METHOD, ""))
    return Call(visit, attempt, deadline, methods, request, metadata, timeout, peer)


def from_command(command: participant_pb2.Command, timeout: float | None, peer: str) -> Call:
    """Reads a command.

    Raises:
        NotABranch: an id or the phase cannot be read; the message names it.
    """
    phase = _COMMAND_PHASES.get(command.phase)
    if phase is None:
        raise NotABranch(f"a command's phase is PHASE_CONFIRM or PHASE_CANCEL, not {command.phase}")
    named = command.methods
    visit = Visit(command.namespace, command.gid, command.branch, phase, named.try_method, command.request_hash)
    _check_ids(visit)
    return Call(
        visit,
        command.attempt,
        None,
        (named.try_method, named.confirm_method, named.cancel_method),
        command.request,
        tuple(_metadata_of(command, phase)),
        timeout,
        peer,
    )


def _check_ids(visit: Visit) -> None:
    for kind, value in ((wire.NAMESPACE, visit.namespace), (wire.GID, visit.gid), (wire.BRANCH, visit.branch)):
        problem = problem_with_id(kind, value)
        if problem is not None:
            raise NotABranch(problem)


def _metadata_of(command: participant_pb2.Command, phase: Phase) -> Iterable[tuple[str, str | bytes]]:
    yield wire.NAMESPACE, command.namespace
    yield wire.GID, command.gid
    yield wire.BRANCH, command.branch
    yield wire.PHASE, phase.value
    yield wire.ATTEMPT, str(command.attempt)
    yield wire.REQUEST_HASH, command.request_hash.hex()
    if command.traceparent:
        yield wire.TRACEPARENT, command.traceparent
    if command.tracestate:
        yield wire.TRACESTATE, command.tracestate
