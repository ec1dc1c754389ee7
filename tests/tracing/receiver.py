"""An OTLP gRPC receiver in the test's own process, and the spans that came, as a tree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

_KINDS = {
    trace_pb2.Span.SPAN_KIND_INTERNAL: "internal",
    trace_pb2.Span.SPAN_KIND_SERVER: "server",
    trace_pb2.Span.SPAN_KIND_CLIENT: "client",
    trace_pb2.Span.SPAN_KIND_PRODUCER: "producer",
    trace_pb2.Span.SPAN_KIND_CONSUMER: "consumer",
}


@dataclass(frozen=True)
class Seen:
    """A span that arrived."""

    service: str
    name: str
    kind: str
    trace: str
    span: str
    parent: str
    is_error: bool
    attributes: dict[str, Any] = field(compare=False)

    def place(self) -> tuple[str, str]:
        """Where it stands among its siblings."""
        return self.line(), str(self.attributes.get("tcc.branch", ""))

    def line(self) -> str:
        """Who did what."""
        return f"{self.service} {self.kind} {self.name}"


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Collects spans."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self._came = asyncio.Condition()
        self.endpoint = ""

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """What exporters call."""
        for resource in request.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                self.spans += [_seen(service, span) for span in scope.spans]
        async with self._came:
            self._came.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def until(self, enough: Callable[[list[Seen]], bool]) -> list[Seen]:
        """The spans, once they are enough."""
        async with asyncio.timeout(20), self._came:
            await self._came.wait_for(lambda: enough(self.spans))
        return self.spans

    def tree(self, trace: str) -> list[str]:
        """The spans of a trace, each under its parent, siblings in order of name and branch."""
        spans = [span for span in self.spans if span.trace == trace]
        known = {span.span for span in spans}
        lines: list[str] = []

        def walk(parent: str, depth: int) -> None:
            for span in sorted((s for s in spans if s.parent == parent), key=Seen.place):
                lines.append("  " * depth + span.line())
                walk(span.span, depth + 1)

        for root in sorted({span.parent for span in spans if span.parent not in known}):
            walk(root, 0)
        return lines


def _seen(service: str, span: trace_pb2.Span) -> Seen:
    return Seen(
        service=service,
        name=span.name,
        kind=_KINDS[span.kind],
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        attributes={a.key: a.value.string_value or a.value.int_value for a in span.attributes},
    )


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver on a free port."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    made = Receiver()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]  # generated without types
    made.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield made
    finally:
        await server.stop(None)
