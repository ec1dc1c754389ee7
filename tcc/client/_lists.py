"""Calls on their way to a manager in lists on one stream, and their answers.

Each ends as it would by itself: with its answer, or with a `grpc.aio.AioRpcError`. What the stream itself ends with
says nothing of a call, so it is UNAVAILABLE to all that were on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any, Final, Generic, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from tcc import wire
from tcc.streams import ListStream, StreamEnded, varint
from tcc.tracing import TraceParent
from tcc.v1 import manager_pb2 as pb, transaction_pb2

AnswerT = TypeVar("AnswerT", pb.ExecuteStreamResponse.Item, pb.CallStreamResponse.Item)

_SERVICE: Final = "/tcc.v1.TransactionManager/"
_TIMEOUTS: Final = 4096
"""That are kept, serialised: most calls wait for half a minute at most, which they say to the hundredth of a second."""
_Opens: TypeAlias = "grpc.aio.StreamStreamMultiCallable[bytes, Any]"


class Lists(Generic[AnswerT]):
    """One method's stream on one channel.

    Args:
        channel: to the manager.
        method: the stream's.
        item: the message of what is asked.
        response: the message that has a list of answers.
    """

    def __init__(self, channel: grpc.aio.Channel, method: str, item: type[Message], response: type[Message]) -> None:
        begin: _Opens = channel.stream_stream(_SERVICE + method, response_deserializer=response.FromString)
        self._stream: ListStream[int, AnswerT] = ListStream(begin, _answers)
        self._count = 0
        self._closed = False
        # An item is put together from parts, as protobuf allows, so that no message is made only to be serialised.
        fields = item.DESCRIPTOR.fields_by_name
        self._id = varint(fields["id"].number << 3)
        self._tags = {name: varint(field.number << 3 | 2) for name, field in fields.items()}
        self._timeout = lru_cache(_TIMEOUTS)(partial(_timeout, self._tags["timeout"]))

    @property
    def offered(self) -> bool:
        """Whether it is worth trying."""
        return self._stream.offered

    async def call(self, field: str, request: bytes, timeout: float, trace: TraceParent) -> AnswerT:
        """One attempt of one call; gives the item that answers it with OK.

        Args:
            field: of the item, which the request is.
            request: serialised.
            timeout: seconds.
            trace: that the call belongs to.

        Raises:
            NotOffered: the manager has no such stream; make the call by itself.
            grpc.aio.AioRpcError: as the call would.
            grpc.aio.UsageError: closed meanwhile.
        """
        self._count = number = self._count + 1
        tags = self._tags
        head = self._id + varint(number) + self._timeout(round(timeout, 2)) + tags[field] + varint(len(request))
        told = _metadata(tags["metadata"], trace) if trace.parent else b""
        try:
            answer = await self._stream.ask(number, head + request + told, timeout)
        except TimeoutError:
            raise _status(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {timeout:g} s") from None
        except StreamEnded as ended:
            if self._closed:
                raise grpc.aio.UsageError("the Manager was closed") from None
            raise _status(grpc.StatusCode.UNAVAILABLE, ended.details) from ended
        if answer.HasField("error"):
            said = answer.error
            code = wire.STATUS_BY_NUMBER.get(said.code, grpc.StatusCode.UNKNOWN)
            raise _status(code, said.message, said.details, getattr(answer, "trailers", ()))
        return answer

    async def close(self) -> None:
        """End the stream; what is under way is unknown."""
        self._closed = True
        await self._stream.close()


def metadata_of(trailers: Iterable[transaction_pb2.Metadata]) -> grpc.aio.Metadata:
    """A call's trailing metadata, as gRPC would give it."""
    return grpc.aio.Metadata(
        *(
            (entry.key, entry.value if entry.key.endswith("-bin") else entry.value.decode(errors="replace"))
            for entry in trailers
        )
    )


def _timeout(tag: bytes, timeout: float) -> bytes:
    duration: Duration = wire.seconds(timeout)
    return _part(tag, duration.SerializeToString())


def _metadata(tag: bytes, trace: TraceParent) -> bytes:
    return b"".join(
        _part(tag, transaction_pb2.Metadata(key=key, value=value.encode()).SerializeToString())
        for key, value in trace.metadata()
    )


def _part(tag: bytes, body: bytes) -> bytes:
    return tag + varint(len(body)) + body


_id: Callable[[Any], int] = attrgetter("id")


def _answers(message: Any) -> Iterable[tuple[int, Any]]:
    items = list(message.items)
    return zip(map(_id, items), items, strict=True)


def _status(
    code: grpc.StatusCode, message: str, details: bytes = b"", trailers: Iterable[transaction_pb2.Metadata] = ()
) -> grpc.aio.AioRpcError:
    trailing = metadata_of(trailers)
    if details:
        trailing.add(wire.STATUS_DETAILS, details)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, message)
