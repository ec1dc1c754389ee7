"""Sending spans to a collector or to Jaeger, by OTLP over gRPC. Needs the extra `tcc-toolkit[otlp]`.

An exporter that is down never slows or fails a transaction: spans wait in a bounded queue in the background and are
dropped when it is full.
"""

from __future__ import annotations

import asyncio

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from tcc.tracing._spans import version

_EXPORT_TIMEOUT = 2.0
"""Seconds for one export, so that a process whose collector is gone still ends in time."""
_EVERY = 1000
"""Milliseconds between exports: what a SIGKILL may lose."""


class Exporter:
    """A tracer provider of one process, and its way out.

        exporter = Exporter("orders", "http://127.0.0.1:4317")
        server = tcc.ParticipantServer(..., tracer_provider=exporter.provider)
        ...
        await exporter.close()

    Args:
        service: `service.name` of the spans.
        endpoint: of an OTLP gRPC receiver; `http://` in the clear, `https://` with TLS.
        sample: share of new traces that are recorded, 0 to 1; a trace that came from elsewhere keeps its own decision.
    """

    def __init__(self, service: str, endpoint: str, *, sample: float = 1.0) -> None:
        resource = Resource.create({"service.name": service, "service.version": version()})
        self.provider = TracerProvider(
            resource=resource, sampler=ParentBased(TraceIdRatioBased(sample)), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_EXPORT_TIMEOUT
        )
        self.provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EVERY))

    async def flush(self) -> bool:
        """Send what waits; says whether all of it went."""
        return await asyncio.to_thread(self.provider.force_flush, int(_EXPORT_TIMEOUT * 1000))

    async def close(self) -> None:
        """Send what waits, for a bounded time, and stop."""
        await self.flush()
        await asyncio.to_thread(self.provider.shutdown)
