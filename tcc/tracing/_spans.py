"""How spans are begun, ended and carried on.

A refused Try is an answer, not an error: spans are errors only for statuses that tell nothing or speak of a fault.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import Token
from enum import Enum
from importlib import metadata
from typing import Final, NamedTuple

import grpc
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tcc import wire

_LOOK_EVERY: Final = 0.1
"""Seconds after which a process that sets its provider late has its spans recorded."""
_W3C: Final = TraceContextTextMapPropagator()

_PARENT: Final = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_ODD: Final = frozenset("13579bdf")
"""Last hexadecimal digits of flags whose lowest bit is set."""
_FAULTS: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class TraceParent(NamedTuple):
    """A W3C trace context, as it stands in metadata, in commands and in the log."""

    parent: str = ""
    state: str = ""

    @classmethod
    def of(cls, metadata: Iterable[tuple[str, str | bytes]]) -> TraceParent:
        """The one in a call's metadata."""
        found = {key: value for key, value in metadata if isinstance(value, str)}
        return cls(found.get(wire.TRACEPARENT, ""), found.get(wire.TRACESTATE, ""))

    @classmethod
    def current(cls) -> TraceParent:
        """The one of the code that runs now."""
        return cls.of_span(trace.get_current_span())

    @classmethod
    def of_span(cls, span: Span) -> TraceParent:
        """The one that a span hands on; empty where the span belongs to no trace."""
        here = span.get_span_context()
        if not here.is_valid:
            return cls()
        parent = f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"
        return cls(parent, here.trace_state.to_header() if here.trace_state else "")

    def context(self) -> Context:
        """As OpenTelemetry takes it."""
        if not self.parent:
            return Context()
        told = _PARENT.fullmatch(self.parent)
        if told is not None and not self.state:  # as nearly always; what follows comes to the same
            trace_id, span_id, flags = (int(part, 16) for part in told.groups())
            if trace_id and span_id:
                here = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
                return trace.set_span_in_context(NonRecordingSpan(here), Context())
        carrier = {wire.TRACEPARENT: self.parent, wire.TRACESTATE: self.state}
        return _W3C.extract({key: value for key, value in carrier.items() if value}, context=Context())

    @property
    def is_plain(self) -> bool:
        """Well-formed, or empty, and without a state. Another may be anything at all until `context` has read it."""
        return not self.state and (not self.parent or _PARENT.fullmatch(self.parent) is not None)

    @property
    def sampled(self) -> bool:
        """Whether the trace was chosen to be recorded."""
        return self.parent[-1:] in _ODD

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """As metadata."""
        if not self.parent:
            return ()
        own = ((wire.TRACEPARENT, self.parent),)
        return (*own, (wire.TRACESTATE, self.state)) if self.state else own


class Tags(NamedTuple):
    """What a span says of the branch that it is about; empty ones are left out.

    Attributes:
        attempt: 1, 2, ...; 0 where there are no attempts.
    """

    gid: str = ""
    branch: str = ""
    phase: str = ""
    attempt: int = 0
    participant: str = ""

    @classmethod
    def of(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Tags:
        """What a call of a participant's method says in its metadata."""
        said = {key: value for key, value in metadata if isinstance(value, str)}
        attempt = said.get(wire.ATTEMPT, "")
        return cls(
            said.get(wire.GID, ""),
            said.get(wire.BRANCH, ""),
            said.get(wire.PHASE, ""),
            int(attempt) if attempt.isdecimal() else 0,
        )

    def attributes(self) -> dict[str, str | int]:
        """As span attributes."""
        said: tuple[str | int, ...] = self
        return {key: value for key, value in zip(_TAGS, said, strict=True) if value}


_TAGS: Final = tuple(f"tcc.{name}" for name in Tags._fields)


class Tracing:
    """Makes spans.

    What nobody would record costs next to nothing: no span is made where the process has no OpenTelemetry SDK, or where
    its sampler drops what comes from a trace that was not chosen. The context passes through all the same.

    Args:
        provider: of tracers; None: the process's own, which may be set later.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("tcc-toolkit", version(), provider)
        self._provider = provider
        self._known: TracerProvider | None = None
        self._sampling = Sampling.OWN
        self._look_again = 0.0

    def call(self, path: str, parent: TraceParent, tags: Tags) -> AbstractContextManager[Rpc]:
        """A gRPC call that this process makes. `Rpc.trace` goes into its metadata; say how it ended by `Rpc.ended`."""
        if self.drops(parent):
            return Unrecorded(parent)
        span = self._rpc(path, SpanKind.CLIENT, parent, tags)
        if span.is_recording():
            return _ended(span, parent)
        # A trace that begins here and was not chosen, as most are where few are.
        told = TraceParent.of_span(span)
        return Unrecorded(told if told.parent else parent)

    def passing(self, parent: TraceParent) -> Unrecorded | None:
        """What `served` gives where nobody would record it, before anything is made of path and tags.

        None where it is recorded: then ask `served`.
        """
        if not self.drops(parent):
            return None
        return Unrecorded(parent, current=True) if parent.parent else _NO_TRACE

    def served(self, path: str, parent: TraceParent, tags: Tags) -> AbstractContextManager[Rpc]:
        """A gRPC call that this process answers; what runs inside has its span as the current one."""
        if self.drops(parent):
            return Unrecorded(parent, current=True)
        return _current(_ended(self._rpc(path, SpanKind.SERVER, parent, tags), parent))

    def sent(self, destination: str, routing_key: str, parent: TraceParent, tags: Tags) -> AbstractContextManager[Rpc]:
        """A message that this process publishes. `Rpc.trace` goes into the message."""
        if self.drops(parent):
            return Unrecorded(parent)
        attributes = _messaging("send", "send", destination)
        if routing_key:
            attributes["messaging.rabbitmq.destination.routing_key"] = routing_key
        attributes.update(tags.attributes())
        return _ended(self._span(f"send {destination}", SpanKind.PRODUCER, parent, attributes), parent)

    def processed(self, destination: str, parent: TraceParent, tags: Tags) -> AbstractContextManager[Rpc]:
        """A message that this process works on; what runs inside has its span as the current one."""
        if self.drops(parent):
            return Unrecorded(parent, current=True)
        attributes: dict[str, str | int] = {**_messaging("process", "process", destination), **tags.attributes()}
        return _current(_ended(self._span(f"process {destination}", SpanKind.CONSUMER, parent, attributes), parent))

    def happened(self, name: str, parent: TraceParent, attributes: Mapping[str, str | int]) -> None:
        """Something of no length, such as a decision."""
        if not self.drops(parent):
            self._span(name, SpanKind.INTERNAL, parent, attributes).end()

    def drops(self, parent: TraceParent) -> bool:
        """Whether nobody would record a span with this parent: who asks first need not even make an empty one."""
        if (self._provider is None or self._known is None) and time.monotonic() >= self._look_again:
            self._look()
        if self._sampling is Sampling.OWN:
            return False
        return self._sampling is Sampling.NEVER or (parent.parent != "" and not parent.sampled)

    def _look(self) -> None:
        """Which provider there is, at most every so often: asking OpenTelemetry costs more than all else here."""
        self._look_again = time.monotonic() + _LOOK_EVERY
        provider = self._provider or trace.get_tracer_provider()
        if provider is not self._known:
            self._known, self._sampling = provider, sampling_of(provider)

    def _rpc(self, path: str, kind: SpanKind, parent: TraceParent, tags: Tags) -> Span:
        method = path.removeprefix("/")
        attributes: dict[str, str | int] = {"rpc.system.name": "grpc", "rpc.method": method, **tags.attributes()}
        return self._span(method, kind, parent, attributes)

    def _span(self, name: str, kind: SpanKind, parent: TraceParent, attributes: Mapping[str, str | int]) -> Span:
        return self._tracer.start_span(name, parent.context(), kind, attributes)


@contextmanager
def _ended(span: Span, parent: TraceParent) -> Iterator[Rpc]:
    """A span that ends with what runs inside, and says what that raised."""
    try:
        yield Rpc(span, parent)
    except Exception as error:
        if span.is_recording():
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
        raise
    finally:
        span.end()


@contextmanager
def _current(begun: AbstractContextManager[Rpc]) -> Iterator[Rpc]:
    with (
        begun as rpc,
        trace.use_span(rpc.span, end_on_exit=False, record_exception=False, set_status_on_exception=False),
    ):
        yield rpc


class Rpc:
    """A span under way.

    Attributes:
        span: OpenTelemetry's.
    """

    __slots__ = ("_parent", "span")

    def __init__(self, span: Span, parent: TraceParent) -> None:
        self.span = span
        self._parent = parent

    @property
    def trace(self) -> TraceParent:
        """What goes on from here: this span's context, or the parent's where nothing records."""
        told = TraceParent.of_span(self.span)
        return told if told.parent else self._parent

    def ended(self, code: grpc.StatusCode, message: str = "") -> None:
        """How a call ended."""
        if not self.span.is_recording():
            return
        self.span.set_attribute("rpc.response.status_code", code.name)
        if code in _FAULTS:
            self.span.set_attribute("error.type", code.name)
            self.span.set_status(Status(StatusCode.ERROR, message))

    def say(self, key: str, value: str | int) -> None:
        """One more attribute."""
        if self.span.is_recording():
            self.span.set_attribute(key, value)

    def failed(self, kind: str, message: str) -> None:
        """It did not do what it was to do."""
        if self.span.is_recording():
            self.span.set_attribute("error.type", kind)
            self.span.set_status(Status(StatusCode.ERROR, message))


class Unrecorded(Rpc):
    """A span that nobody would record: the context goes on as it came.

    Args:
        current: what runs inside belongs to the trace that came, so that it is not recorded as one of its own.
    """

    __slots__ = ("_current", "_token")

    def __init__(self, parent: TraceParent, *, current: bool = False) -> None:
        self.span = INVALID_SPAN
        self._parent = parent
        self._current = current
        self._token: Token[Context] | None = None

    def __enter__(self) -> Unrecorded:
        if self._current and self._parent.parent:
            self._token = attach(trace.set_span_in_context(_Remote(self._parent), Context()))
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            detach(self._token)

    @property
    def trace(self) -> TraceParent:
        """What came."""
        return self._parent

    def ended(self, code: grpc.StatusCode, message: str = "") -> None:
        """Nobody asks."""

    def say(self, key: str, value: str | int) -> None:
        """Nobody asks."""

    def failed(self, kind: str, message: str) -> None:
        """Nobody asks."""


_NO_TRACE: Final = Unrecorded(TraceParent(), current=True)
"""Of no trace at all: one for all, since it keeps nothing."""


class _Remote(NonRecordingSpan):
    """The span that a trace context speaks of, read when somebody asks for it: most handlers never do."""

    def __init__(self, parent: TraceParent) -> None:
        self._parent = parent

    def get_span_context(self) -> SpanContext:
        """The span's."""
        return trace.get_current_span(self._parent.context()).get_span_context()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._parent.parent!r})"


class Sampling(Enum):
    """Which spans a provider records, as far as it is known."""

    NEVER = 0
    """None."""
    FOLLOWS = 1
    """None of a trace that came from elsewhere and was not chosen."""
    OWN = 2
    """Nobody knows: ask it each time."""


def sampling_of(provider: TracerProvider) -> Sampling:
    """Which spans a provider records, by what its sampler says of itself."""
    if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
        return Sampling.NEVER
    sampler = getattr(provider, "sampler", None)
    describe = getattr(sampler, "get_description", None)
    said = str(describe()) if callable(describe) else ""
    follows = said.startswith("ParentBased{") and "remoteParentNotSampled:AlwaysOffSampler" in said
    return Sampling.FOLLOWS if follows else Sampling.OWN


def _messaging(operation: str, kind: str, destination: str) -> dict[str, str | int]:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
    }


def version() -> str:
    """The toolkit's version; empty in a source tree that was never installed."""
    try:
        return metadata.version("tcc-toolkit")
    except metadata.PackageNotFoundError:
        return ""
