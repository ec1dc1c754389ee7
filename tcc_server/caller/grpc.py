"""The Caller over gRPC: each attempt an item of a list, or one unary call where the participant takes no lists."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractContextManager
from functools import partial

import grpc
import grpc.aio

from tcc import wire
from tcc.streams import NotOffered, StreamEnded
from tcc.tracing import Rpc, Tags, TraceParent, Tracing
from tcc.v1.participant_pb2 import TryStreamRequest, TryStreamResponse
from tcc.v1.transaction_pb2 import Metadata, Methods
from tcc_server.caller import metadata
from tcc_server.caller.channels import Channels
from tcc_server.caller.seam import TryCall, TryReply
from tcc_server.caller.streams import Streams, end_if_dropped
from tcc_server.core import rules
from tcc_server.core.model import Status

_OK = Status()
UNCONFIGURED = "participant {} is no longer configured"


class GrpcCaller:
    """Calls participants over their channels."""

    def __init__(self, channels: Channels, tracing: Tracing | None = None) -> None:
        self._channels = channels
        self._tracing = tracing or Tracing()

    def call(self, call: TryCall) -> Awaitable[TryReply]:
        """Send the attempt and wait for its end; whatever happens is a status."""
        try:
            streams = self._channels.streams(call.ask.participant)
        except KeyError:
            return _at_once(UNCONFIGURED.format(call.ask.participant))
        tags = Tags(call.key.gid, call.ask.step, "try", call.attempt, call.ask.participant)
        begun = self._tracing.call(call.ask.methods.try_method, call.trace, tags)
        if not streams.take_tries:
            return self._find_out(streams, call, begun)
        span = begun.__enter__()
        answer = streams.put_try(_item(call, span.trace), call.timeout, partial(_ended, call, begun, span))
        return end_if_dropped(answer, begun, span)

    async def _find_out(self, streams: Streams, call: TryCall, begun: AbstractContextManager[Rpc]) -> TryReply:
        """The attempt as an item of a list, and as a call of its own where the participant takes no lists."""
        with begun as span:
            try:
                reply = _answered(await streams.attempt(_item(call, span.trace), call.timeout))
            except NotOffered:
                reply = await self._unary(call, span.trace)
            except (TimeoutError, StreamEnded) as error:
                reply = _unanswered(call, error)
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


def _ended(
    call: TryCall, begun: AbstractContextManager[Rpc], span: Rpc, answer: TryStreamResponse.Item | Exception
) -> TryReply:
    reply = _unanswered(call, answer) if isinstance(answer, Exception) else _answered(answer)
    span.ended(wire.STATUS_BY_NUMBER.get(reply.status.code, grpc.StatusCode.UNKNOWN), reply.status.message)
    begun.__exit__(None, None, None)
    return reply


def _item(call: TryCall, trace: TraceParent) -> TryStreamRequest.Item:
    methods = call.ask.methods
    item = TryStreamRequest.Item(
        request=call.ask.request,
        methods=Methods(
            try_method=methods.try_method, confirm_method=methods.confirm_method, cancel_method=methods.cancel_method
        ),
        metadata=[
            Metadata(key=key, value=value if isinstance(value, bytes) else value.encode())
            for key, value in metadata.of_try(call, trace)
        ],
    )
    item.timeout.seconds = seconds = int(call.timeout)
    item.timeout.nanos = int((call.timeout - seconds) * 1e9)
    return item


def _answered(answer: TryStreamResponse.Item) -> TryReply:
    if not answer.trailers and not answer.HasField("status"):
        return TryReply(_OK, answer.reply)
    trailers = tuple(
        (entry.key, entry.value if entry.key.endswith("-bin") else entry.value.decode(errors="replace"))
        for entry in answer.trailers
    )
    said = answer.status
    return _reply(Status(said.code, said.message, said.details), answer.reply, trailers)


def _unanswered(call: TryCall, error: Exception) -> TryReply:
    if isinstance(error, TimeoutError):
        return TryReply(Status(rules.DEADLINE_EXCEEDED, f"no answer within {call.timeout:g} s"))
    # What the stream ends with is no word of the participant's on this Try.
    text = error.details if isinstance(error, StreamEnded) else "the participant takes no Tries in lists any more"
    return TryReply(Status(rules.UNAVAILABLE, text))


async def _at_once(text: str) -> TryReply:
    return TryReply(Status(rules.UNAVAILABLE, text))


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
