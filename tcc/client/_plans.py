"""Plans on their way to a manager in lists, and their answers.

Each ends as a call of its own would: with the response, or with an `grpc.aio.AioRpcError`. What the stream itself ends
with says nothing of a plan, so it is UNAVAILABLE to all that were on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import attrgetter
from typing import Final, TypeAlias

import grpc
import grpc.aio

from tcc import wire
from tcc.streams import ListStream, StreamEnded, varint
from tcc.tracing import TraceParent
from tcc.v1 import manager_pb2 as pb

_METHOD: Final = "/tcc.v1.TransactionManager/ExecuteStream"
_Opens: TypeAlias = "grpc.aio.StreamStreamMultiCallable[bytes, pb.ExecuteStreamResponse]"


class Plans:
    """The stream of plans on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        begin: _Opens = channel.stream_stream(_METHOD, response_deserializer=pb.ExecuteStreamResponse.FromString)
        self._stream: ListStream[int, pb.ExecuteStreamResponse.Item] = ListStream(begin, _answers)
        self._count = 0
        self._closed = False

    @property
    def offered(self) -> bool:
        """Whether it is worth trying."""
        return self._stream.offered

    async def execute(self, request: bytes, timeout: float, trace: TraceParent) -> pb.ExecuteResponse:
        """One attempt of one plan.

        Args:
            request: serialised.

        Raises:
            NotOffered: call Execute instead.
            grpc.aio.AioRpcError: as a call would.
            grpc.aio.UsageError: closed meanwhile.
        """
        self._count = number = self._count + 1
        head = _ID + varint(number) + _timeout(round(timeout, 3)) + _REQUEST + varint(len(request))
        try:
            answer = await self._stream.ask(number, head + request + (_trace(trace) if trace.parent else b""), timeout)
        except TimeoutError:
            raise _status(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {timeout:g} s", b"") from None
        except StreamEnded as ended:
            if self._closed:
                raise grpc.aio.UsageError("the Manager was closed") from None
            raise _status(grpc.StatusCode.UNAVAILABLE, ended.details, b"") from ended
        if answer.HasField("error"):
            said = answer.error
            code = wire.STATUS_BY_NUMBER.get(said.code, grpc.StatusCode.UNKNOWN)
            raise _status(code, said.message, said.details)
        return answer.response

    async def close(self) -> None:
        """End the stream; what is under way is unknown."""
        self._closed = True
        await self._stream.close()


# An item is put together from parts, as protobuf allows, so that no message is made that is only serialised again.

_Item = pb.ExecuteStreamRequest.Item
_ID: Final = varint(_Item.DESCRIPTOR.fields_by_name["id"].number << 3)
_REQUEST: Final = varint(_Item.DESCRIPTOR.fields_by_name["request"].number << 3 | 2)  # with a length


@lru_cache(128)
def _timeout(timeout: float) -> bytes:
    return _Item(timeout=wire.seconds(timeout)).SerializeToString()


def _trace(trace: TraceParent) -> bytes:
    item = _Item()
    for key, value in trace.metadata():
        item.metadata.add(key=key, value=value.encode())
    return item.SerializeToString()


_id: Callable[[pb.ExecuteStreamResponse.Item], int] = attrgetter("id")


def _answers(message: pb.ExecuteStreamResponse) -> Iterable[tuple[int, pb.ExecuteStreamResponse.Item]]:
    items = list(message.items)
    return zip(map(_id, items), items, strict=True)


def _status(code: grpc.StatusCode, message: str, details: bytes) -> grpc.aio.AioRpcError:
    trailers = grpc.aio.Metadata((wire.STATUS_DETAILS, details)) if details else grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, message)
