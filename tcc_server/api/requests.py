"""Checks what clients ask and turns it into the core's values. What is wrong is a BadRequest that names the field."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b

from google.protobuf.duration_pb2 import Duration

from tcc import wire
from tcc.ids import is_id, problem_with_id
from tcc.v1 import manager_pb2 as pb, transaction_pb2
from tcc_server.api.errors import BadRequest
from tcc_server.core.model import Ask, Methods

_PATH = re.compile(r"/[A-Za-z_][\w.]*/[A-Za-z_]\w*", re.ASCII)
_METADATA_KEY = re.compile(r"[a-z0-9_.-]{1,256}")
_METADATA_BYTES = 4096
_NAME_LENGTH = 128
_PATH_LENGTH = 256
_KNOWN_MOST = 4096
_KNOWN_LENGTH = 3 * (_PATH_LENGTH + 3)
_KNOWN_METHODS: dict[bytes, Methods] = {}
"""Triples that were checked, by their bytes, so that each is checked once and kept once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is taken at most; the configuration documents each under the same name. Times in seconds."""

    branches: int = 64
    request_bytes: int = 256 * 1024
    transaction_bytes: int = 1024 * 1024
    default_timeout: float = 30.0
    max_timeout: float = 3600.0


class Requests:
    """Reads requests.

    Args:
        participants: the names that clients may use; None: any.
    """

    def __init__(self, participants: Collection[str] | None, limits: Limits) -> None:
        self._anybody = participants is None
        self._participants: Collection[str] = participants or ()
        self._limits = limits

    def without_limits(self) -> Requests:
        """The same checks without those that the configuration decides: for what was taken before it changed."""
        return Requests(None, Limits(2**31, 2**31, 2**31, self._limits.default_timeout, self._limits.max_timeout))

    def gid(self, gid: str) -> str:
        """A gid that fits."""
        _check_id("gid", gid)
        return gid

    def name(self, name: str) -> str:
        """A transaction's name that fits."""
        if len(name) > _NAME_LENGTH:
            raise BadRequest(f"name has {len(name)} characters, the limit is {_NAME_LENGTH}")
        return name

    def timeout(self, request: pb.ExecuteRequest | pb.BeginRequest) -> float:
        """The transaction's deadline, in seconds from now."""
        if not request.HasField("timeout"):
            return self._limits.default_timeout
        timeout = _seconds(request.timeout)
        if timeout <= 0:
            raise BadRequest(f"timeout is {timeout:g} s, which is past: give a positive time", "BAD_DEADLINE")
        if timeout > self._limits.max_timeout:
            raise BadRequest(f"timeout is {timeout:g} s, the limit is {self._limits.max_timeout:g} s", "BAD_DEADLINE")
        return timeout

    def plan(self, branches: Collection[pb.PlannedBranch]) -> tuple[Ask, ...]:
        """All branches of a plan."""
        if not branches:
            raise BadRequest("the plan has no branches: give 1 or more", "NO_BRANCHES")
        if len(branches) > self._limits.branches:
            raise BadRequest(
                f"the plan has {len(branches)} branches, the limit is {self._limits.branches}", "LIMIT_EXCEEDED"
            )
        asks: list[Ask] = []
        named, total = False, 0
        for place, branch in enumerate(branches):
            step = branch.step
            if step:
                named = True
                _check_id("step", step)
            ask = self._ask(branch, step or str(place))
            total += len(ask.request)
            asks.append(ask)
        if named:  # positions are distinct
            _check_distinct([ask.step for ask in asks])
        if total > self._limits.transaction_bytes:
            raise BadRequest(
                f"the requests have {total} bytes together, the limit is {self._limits.transaction_bytes}",
                "LIMIT_EXCEEDED",
            )
        return tuple(asks)

    def branch(self, branch: pb.PlannedBranch) -> Ask:
        """One branch that is to be enlisted."""
        if not branch.step:
            raise BadRequest("step is empty: a Try that is repeated must name the same step", "BAD_ID")
        _check_id("step", branch.step)
        return self._ask(branch, branch.step)

    def _ask(self, branch: pb.PlannedBranch, step: str) -> Ask:
        participant, request = branch.participant, branch.request
        if participant not in self._participants:  # those are ids too
            _check_id(f"participant of step {step!r}", participant)
            if not self._anybody:
                known = ", ".join(sorted(self._participants)) or "none"
                raise BadRequest(
                    f"step {step!r}: participant {participant!r} is not configured here; known: {known}",
                    "UNKNOWN_PARTICIPANT",
                )
        if len(request) > self._limits.request_bytes:
            size, limit = len(request), self._limits.request_bytes
            raise BadRequest(f"step {step!r}: the request has {size} bytes, the limit is {limit}", "LIMIT_EXCEEDED")
        metadata = branch.metadata
        return Ask(
            step,
            participant,
            _methods(step, branch.methods),
            request,
            blake2b(request, digest_size=16).digest(),
            _try_timeout(step, branch) if branch.HasField("try_timeout") else None,
            _metadata(step, metadata) if metadata else (),
        )


def _check_id(kind: str, value: str) -> None:
    if not is_id(value):
        raise BadRequest(problem_with_id(kind, value) or "", "BAD_ID")


def _check_distinct(steps: list[str]) -> None:
    if len(set(steps)) < len(steps):
        twice = next(step for place, step in enumerate(steps) if step in steps[:place])
        raise BadRequest(f"two branches have the step {twice!r}: steps are distinct", "DUPLICATE_STEP")


def _methods(step: str, methods: transaction_pb2.Methods) -> Methods:
    said = methods.SerializeToString()  # in one go, where reading three fields would be three
    known = _KNOWN_METHODS.get(said)
    if known is not None:
        return known
    paths = Methods(methods.try_method, methods.confirm_method, methods.cancel_method)
    _check_methods(step, paths)
    # They come from clients: do not let them fill the memory, nor with fields that are none of ours.
    if len(_KNOWN_METHODS) < _KNOWN_MOST and len(said) <= _KNOWN_LENGTH:
        _KNOWN_METHODS[said] = paths
    return paths


def _check_methods(step: str, paths: Methods) -> None:
    for role, path in zip(("try", "confirm", "cancel"), paths, strict=True):
        if len(path) > _PATH_LENGTH:
            raise BadRequest(
                f"step {step!r}: {role}_method has {len(path)} characters, the limit is {_PATH_LENGTH}", "BAD_METHODS"
            )
        if not _PATH.fullmatch(path):
            raise BadRequest(
                f"step {step!r}: {role}_method {path!r} is no path of the form /package.Service/Method", "BAD_METHODS"
            )
    if len({path.rpartition("/")[0] for path in paths}) != 1 or len(set(paths)) != 3:
        raise BadRequest(
            f"step {step!r}: Try, Confirm and Cancel are three methods of one service, not {', '.join(paths)}",
            "BAD_METHODS",
        )


def _try_timeout(step: str, branch: pb.PlannedBranch) -> float:
    timeout = _seconds(branch.try_timeout)
    if timeout <= 0:
        raise BadRequest(f"step {step!r}: try_timeout is {timeout:g} s: give a positive time", "BAD_DEADLINE")
    return timeout


def _metadata(step: str, entries: Iterable[transaction_pb2.Metadata]) -> tuple[tuple[str, bytes], ...]:
    pairs = tuple((entry.key, entry.value) for entry in entries)
    size = sum(len(key) + len(value) + 32 for key, value in pairs)
    if size > _METADATA_BYTES:
        raise BadRequest(f"step {step!r}: metadata of {size} bytes, the limit is {_METADATA_BYTES}", "LIMIT_EXCEEDED")
    for key, value in pairs:
        if not _METADATA_KEY.fullmatch(key) or key.startswith(("grpc-", "tcc-")) or key in _TRACE_KEYS:
            raise BadRequest(f"step {step!r}: metadata key {key!r} is not for clients to set", "BAD_METADATA")
        if not key.endswith("-bin") and not all(32 <= byte < 127 for byte in value):
            raise BadRequest(
                f"step {step!r}: metadata {key!r} is not printable ASCII: use a key that ends in -bin", "BAD_METADATA"
            )
    return pairs


_TRACE_KEYS = frozenset({wire.TRACEPARENT, wire.TRACESTATE})


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
