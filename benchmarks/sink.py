"""Where all spans of a benchmark go: an OTLP gRPC receiver that takes them and forgets them.

A process of its own, so that receiving costs nobody who is measured anything but the processors it shares.
"""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import uvloop


async def _export(_: bytes, __: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return b""  # an ExportTraceServiceResponse that complains of nothing


async def main() -> None:
    """Serve until killed or told to end."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_export)
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main())
