"""The Caller over gRPC: each attempt an item of a list, or one unary call where the participant takes no lists."""

from __future__ import annotations

import grpc
import grpc.aio

from tcc import wire
from tcc.streams import NotOffered, StreamEnded
from tcc.tracing import Tags, TraceParent, Tracing
from tcc.v1.participant_pb2 import TryStreamRequest
from tcc_server.caller import metadata
from tcc_server.caller.channels import Channels
from tcc_server.caller.seam import TryCall, TryReply
from tcc_server.caller.streams import Streams
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
            streams = self._channels.streams(call.ask.participant)
        except KeyError:
            return TryReply(Status(rules.UNAVAILABLE, f"participant {call.ask.participant} is no longer configured"))
        tags = Tags(call.key.gid, call.ask.step, "try", call.attempt, call.ask.participant)
        with self._tracing.call(call.ask.methods.try_method, call.trace, tags) as span:
            reply = await _streamed(streams, call, span.trace)
            if reply is None:
                reply = await self._unary(call, span.trace)
            span.ended(wire.STATUS_BY_NUMBER[reply.status.code], reply.status.message)
        return reply

    async def _unary(self, call: TryCall, trace: TraceParent) -> TryReply:
        method = self._channels.method(call.ask.participant, call.ask.methods.try_method)
        rpc = method(call.ask.request, timeout=call.timeout, metadata=metadata.for_try(call, trace))
        try:
            reply = await rpc
        except grpc.aio.AioRpcError as error:
            status = Status(error.code().value[0], error.details() or "")
            return _reply(status, b"", tuple(error.trailing_metadata() or ()))
        return _reply(Status(), reply, tuple(await rpc.trailing_metadata()))


async def _streamed(streams: Streams, call: TryCall, trace: TraceParent) -> TryReply | None:
    """The attempt as an item of a list; None where the participant takes none."""
    item = TryStreamRequest.Item(request=call.ask.request)
    methods = call.ask.methods
    item.methods.try_method = methods.try_method
    item.methods.confirm_method = methods.confirm_method
    item.methods.cancel_method = methods.cancel_method
    item.timeout.seconds = seconds = int(call.timeout)
    item.timeout.nanos = int((call.timeout - seconds) * 1e9)
    for key, value in metadata.of_try(call, trace):
        item.metadata.add(key=key, value=value if isinstance(value, bytes) else value.encode())
    try:
        answer = await streams.attempt(item, call.timeout)
    except NotOffered:
        return None
    except TimeoutError:
        return TryReply(Status(rules.DEADLINE_EXCEEDED, f"no answer within {call.timeout:g} s"))
    except StreamEnded as ended:
        # What the stream ends with is no word of the participant's on this Try.
        return TryReply(Status(rules.UNAVAILABLE, ended.details))
    trailers = tuple(
        (entry.key, entry.value if entry.key.endswith("-bin") else entry.value.decode(errors="replace"))
        for entry in answer.trailers
    )
    if answer.HasField("status"):
        said = answer.status
        return _reply(Status(said.code, said.message, said.details), b"", trailers)
    return _reply(Status(), answer.reply, trailers)


def _reply(status: Status, reply: bytes, trailers: tuple[tuple[str, str | bytes], ...]) -> TryReply:
    details = status.details or metadata.status_details(trailers)
    return TryReply(
        Status(status.code, status.message, details) if status.code else status,
        reply,
        marked=bool(status.code) and metadata.is_marked(trailers),
        expires_in=None if status.code else metadata.expires_in(trailers),
        retry_after=wire.retry_delay(details) if details else None,
        trailers=trailers,
    )
