"""The Caller over gRPC: one unary call an attempt."""

from __future__ import annotations

import grpc
import grpc.aio

from tcc import wire
from tcc.tracing import Tags, Tracing
from tcc_server.caller import metadata
from tcc_server.caller.channels import Channels
from tcc_server.caller.seam import TryCall, TryReply
from tcc_server.core import rules
from tcc_server.core.model import Status


class GrpcCaller:
    """Calls participants over their channels."""

    def __init__(self, channels: Channels, tracing: Tracing | None = None) -> None:
        self._channels = channels
        self._tracing = tracing or Tracing()

    async def call(self, call: TryCall) -> TryReply:
        """Send the attempt and wait for its end; whatever happens is a status."""
        try:
            method = self._channels.method(call.ask.participant, call.ask.methods.try_method)
        except KeyError:
            return TryReply(Status(rules.UNAVAILABLE, f"participant {call.ask.participant} is no longer configured"))
        tags = Tags(call.key.gid, call.ask.step, "try", call.attempt, call.ask.participant)
        with self._tracing.call(call.ask.methods.try_method, call.trace, tags) as span:
            rpc = method(call.ask.request, timeout=call.timeout, metadata=metadata.for_try(call, span.trace))
            try:
                reply = await rpc
            except grpc.aio.AioRpcError as error:
                span.ended(error.code(), error.details() or "")
                return _failed(error)
            span.ended(grpc.StatusCode.OK)
            trailers = tuple(await rpc.trailing_metadata())
        return TryReply(Status(), reply, expires_in=metadata.expires_in(trailers), trailers=trailers)


def _failed(error: grpc.aio.AioRpcError) -> TryReply:
    trailers = tuple(error.trailing_metadata() or ())
    details = metadata.status_details(trailers)
    return TryReply(
        Status(error.code().value[0], error.details() or "", details),
        marked=metadata.is_marked(trailers),
        retry_after=wire.retry_delay(details),
        trailers=trailers,
    )
