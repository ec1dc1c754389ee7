"""A server that answers lists as the test says, and a stream to it, on a real loopback connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest

from tcc.streams import ListServer, ListStream
from tcc.v1 import participant_pb2 as pb, participant_pb2_grpc, transaction_pb2

Item = pb.TryStreamRequest.Item
Answer = pb.TryStreamResponse.Item


def item(number: int, request: bytes = b"") -> bytes:
    """A serialised item of that id."""
    return Item(id=number, request=request).SerializeToString()


class Service(participant_pb2_grpc.ParticipantServicer):
    """Echoes each item's request. Items are held back while there are gates for their ids."""

    def __init__(self, at_once: int = 1000) -> None:
        self.offered = True
        self.gates: dict[int, asyncio.Event] = {}
        self.arrived: list[int] = []
        self.cancelled: list[int] = []
        self.sizes: list[int] = []
        self.news = asyncio.Condition()
        self.streams = 0
        self.server: ListServer[Any, Any] = ListServer(self._items, self._echo, _failed, _pack, at_once=at_once)

    async def TryStream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # writes by itself
        if not self.offered:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")
        self.streams += 1
        await self.server.serve(request_iterator, context)

    async def Describe(self, request: Any, context: Any) -> pb.DescribeResponse:
        return pb.DescribeResponse()

    def CommandStream(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.news:
            await self.news.wait_for(condition)

    def _items(self, message: Any) -> Iterable[Any]:
        self.sizes.append(len(message.items))
        return list(message.items)

    async def _echo(self, asked: Any, context: Any) -> Any:
        self.arrived.append(asked.id)
        await self._tell()
        if asked.request == b"bug":
            raise ValueError("a bug")
        try:
            if (gate := self.gates.get(asked.id)) is not None:
                await gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(asked.id)
            await self._tell()
            raise
        return Answer(id=asked.id, reply=asked.request)

    async def _tell(self) -> None:
        async with self.news:
            self.news.notify_all()


def _failed(asked: Any, code: grpc.StatusCode, text: str) -> Any:
    return Answer(id=asked.id, status=transaction_pb2.CallStatus(code=code.value[0], message=text))


def _pack(answers: Any) -> Any:
    return [pb.TryStreamResponse(items=answers)]


def answers_of(message: Any) -> Iterable[tuple[int, Any]]:
    return ((answer.id, answer) for answer in message.items)


@dataclass
class Line:
    """Both ends."""

    service: Service
    server: grpc.aio.Server
    port: int
    channel: grpc.aio.Channel
    streams: list[ListStream[int, Any]] = field(default_factory=list)

    def stream(self, **bounds: int) -> ListStream[int, Any]:
        begin: Any = self.channel.stream_stream(
            "/tcc.v1.Participant/TryStream", response_deserializer=pb.TryStreamResponse.FromString
        )
        self.streams.append(ListStream(begin, answers_of, **bounds))
        return self.streams[-1]


async def start(service: Service, port: int = 0) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    participant_pb2_grpc.add_ParticipantServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, bound


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    service = Service()
    server, port = await start(service)
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        made = Line(service, server, port, channel)
        yield made
        for stream in made.streams:
            await stream.close()
    await made.server.stop(None)
