"""The Caller over gRPC: each attempt an item of a list, or one unary call where the participant takes no lists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import grpc
import grpc.aio
import structlog

from tcc import wire
from tcc.streams import NotOffered, StreamEnded
from tcc.tracing import Tags, TraceParent, Tracing
from tcc.v1.participant_pb2 import TryStreamResponse
from tcc_server.caller import metadata
from tcc_server.caller.channels import Channels
from tcc_server.caller.seam import Sent, TryCall, TryReply
from tcc_server.caller.streams import Streams
from tcc_server.core import rules
from tcc_server.core.model import Status

_log = structlog.get_logger(__name__)
_OK = Status()
_FAILED = TryReply(Status(rules.UNKNOWN, "the manager failed at this call: its log says why"))
UNCONFIGURED = "participant {} is no longer configured"


class GrpcCaller:
    """Calls participants over their channels."""

    def __init__(self, channels: Channels, tracing: Tracing | None = None) -> None:
        self._channels = channels
        self._tracing = tracing or Tracing()

    def call(self, call: TryCall) -> asyncio.Future[TryReply]:
        """Send the attempt and wait for its end; whatever happens is a status."""
        end: asyncio.Future[TryReply] = asyncio.get_running_loop().create_future()
        end.add_done_callback(partial(_give_up, self.send(call, partial(_settle, end))))
        return end

    def send(self, call: TryCall, told: Callable[[TryReply], object]) -> Sent:
        """The same; `told` hears the end."""
        try:
            streams = self._channels.streams(call.ask.participant)
        except KeyError:
            text = UNCONFIGURED.format(call.ask.participant)
            return asyncio.get_running_loop().call_soon(told, TryReply(Status(rules.UNAVAILABLE, text)))
        if streams.take_tries and self._tracing.drops(call.trace):  # nearly always: no task, no span, no future
            return streams.put_try(call, partial(_answered, call, told))
        work = asyncio.ensure_future(self._carry_out(streams, call))
        work.add_done_callback(partial(_carried_out, told))
        return work

    async def _carry_out(self, streams: Streams, call: TryCall) -> TryReply:
        """In a span, as an item of a list, or as a call of its own where the participant takes no lists."""
        tags = Tags(call.key.gid, call.ask.step, "try", call.attempt, call.ask.participant)
        with self._tracing.call(call.ask.methods.try_method, call.trace, tags) as span:
            try:
                reply = _read(await streams.attempt(call, *span.trace))
            except NotOffered:
                reply = await self._unary(call, span.trace)
            except (TimeoutError, StreamEnded) as error:
                reply = _unanswered(call, error)
            span.ended(wire.STATUS_BY_NUMBER.get(reply.status.code, grpc.StatusCode.UNKNOWN), reply.status.message)
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


def _settle(end: asyncio.Future[TryReply], reply: TryReply) -> None:
    if not end.done():
        end.set_result(reply)


def _give_up(sent: Sent, end: asyncio.Future[TryReply]) -> None:
    if end.cancelled():
        sent.cancel()


def _carried_out(told: Callable[[TryReply], object], work: asyncio.Future[TryReply]) -> None:
    if work.cancelled():
        return
    error = work.exception()
    if error is not None:
        _log.error("caller_failed", exc_info=error)
    told(work.result() if error is None else _FAILED)


def _answered(call: TryCall, told: Callable[[TryReply], object], answer: TryStreamResponse.Item | Exception) -> None:
    try:
        reply = _unanswered(call, answer) if isinstance(answer, Exception) else _read(answer)
    except Exception as error:
        _log.error("caller_failed", gid=call.key.gid, step=call.ask.step, exc_info=error)
        reply = _FAILED
    told(reply)


def _read(answer: TryStreamResponse.Item) -> TryReply:
    if not answer.trailers and not answer.HasField("status"):
        return TryReply(_OK, answer.reply)
    trailers = tuple(
        (entry.key, entry.value if entry.key.endswith("-bin") else entry.value.decode(errors="replace"))
        for entry in answer.trailers
    )
    said = answer.status
    code = said.code if said.code in wire.STATUS_BY_NUMBER else rules.UNKNOWN  # as gRPC takes what it does not know
    return _reply(Status(code, said.message, said.details), answer.reply, trailers)


def _unanswered(call: TryCall, error: Exception) -> TryReply:
    if isinstance(error, TimeoutError):
        return TryReply(Status(rules.DEADLINE_EXCEEDED, f"no answer within {call.timeout:g} s"))
    # What the stream ends with is no word of the participant's on this Try.
    text = error.details if isinstance(error, StreamEnded) else "the participant takes no Tries in lists any more"
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
