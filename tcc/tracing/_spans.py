"""How spans are begun, ended and carried on.

A refused Try is an answer, not an error: spans are errors only for statuses that tell nothing or speak of a fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Final, NamedTuple

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tcc import wire

_W3C: Final = TraceContextTextMapPropagator()

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
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        return cls(carrier.get(wire.TRACEPARENT, ""), carrier.get(wire.TRACESTATE, ""))

    def context(self) -> Context:
        """As OpenTelemetry takes it."""
        if not self.parent:
            return Context()
        carrier = {wire.TRACEPARENT: self.parent, wire.TRACESTATE: self.state}
        return _W3C.extract({key: value for key, value in carrier.items() if value}, context=Context())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """As metadata."""
        if not self.parent:
            return ()
        own = ((wire.TRACEPARENT, self.parent),)
        return (*own, (wire.TRACESTATE, self.state)) if self.state else own


@dataclass(frozen=True, slots=True)
class Tags:
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
        said: dict[str, str | int] = {
            "tcc.gid": self.gid,
            "tcc.branch": self.branch,
            "tcc.phase": self.phase,
            "tcc.attempt": self.attempt,
            "tcc.participant": self.participant,
        }
        return {key: value for key, value in said.items() if value}


class Tracing:
    """Makes spans.

    Args:
        provider: of tracers; None: the process's own, which may be set later.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("tcc-toolkit", version(), provider)

    @contextmanager
    def call(self, path: str, parent: TraceParent, tags: Tags) -> Iterator[Rpc]:
        """A gRPC call that this process makes. `Rpc.trace` goes into its metadata; say how it ended by `Rpc.ended`."""
        with self._rpc(path, SpanKind.CLIENT, parent, tags) as rpc:
            yield rpc

    @contextmanager
    def served(self, path: str, parent: TraceParent, tags: Tags) -> Iterator[Rpc]:
        """A gRPC call that this process answers; what runs inside has its span as the current one."""
        with (
            self._rpc(path, SpanKind.SERVER, parent, tags) as rpc,
            trace.use_span(rpc.span, end_on_exit=False, record_exception=False, set_status_on_exception=False),
        ):
            yield rpc

    @contextmanager
    def sent(self, destination: str, routing_key: str, parent: TraceParent, tags: Tags) -> Iterator[Rpc]:
        """A message that this process publishes. `Rpc.trace` goes into the message."""
        attributes = _messaging("send", "send", destination)
        if routing_key:
            attributes["messaging.rabbitmq.destination.routing_key"] = routing_key
        with self._span(f"send {destination}", SpanKind.PRODUCER, parent, {**attributes, **tags.attributes()}) as rpc:
            yield rpc

    @contextmanager
    def processed(self, destination: str, parent: TraceParent, tags: Tags) -> Iterator[Rpc]:
        """A message that this process works on; what runs inside has its span as the current one."""
        attributes: dict[str, str | int] = {**_messaging("process", "process", destination), **tags.attributes()}
        with (
            self._span(f"process {destination}", SpanKind.CONSUMER, parent, attributes) as rpc,
            trace.use_span(rpc.span, end_on_exit=False, record_exception=False, set_status_on_exception=False),
        ):
            yield rpc

    def happened(self, name: str, parent: TraceParent, attributes: Mapping[str, str | int]) -> None:
        """Something of no length, such as a decision."""
        with self._span(name, SpanKind.INTERNAL, parent, attributes):
            pass

    @contextmanager
    def _rpc(self, path: str, kind: SpanKind, parent: TraceParent, tags: Tags) -> Iterator[Rpc]:
        method = path.removeprefix("/")
        attributes: dict[str, str | int] = {"rpc.system.name": "grpc", "rpc.method": method, **tags.attributes()}
        with self._span(method, kind, parent, attributes) as rpc:
            yield rpc

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, parent: TraceParent, attributes: Mapping[str, str | int]
    ) -> Iterator[Rpc]:
        span = self._tracer.start_span(name, parent.context(), kind, attributes)
        try:
            yield Rpc(span, parent)
        except Exception as error:
            if span.is_recording():
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        finally:
            span.end()


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
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self.span, Context()))
        if not carrier:
            return self._parent
        return TraceParent(carrier.get(wire.TRACEPARENT, ""), carrier.get(wire.TRACESTATE, ""))

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
