"""When a call is sent again: at once when the manager is back, not before it may be, and no faster than it asks."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from tcc import wire
from tcc.client._repeat import Pace, repeated
from tcc.client._transport import Transport

AT_ONCE = Pace(first=0.0, cap=0.0)


class Flaky:
    """An attempt that fails until it has failed often enough."""

    def __init__(self, failures: int, details: bytes = b"") -> None:
        self.failures = failures
        self.details = details
        self.times: list[float] = []

    async def __call__(self, request: str, timeout: float) -> str:
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) <= self.failures:
            trailers = grpc.aio.Metadata((wire.STATUS_DETAILS, self.details))
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers)
        return request


class Connection(grpc.aio.Channel):
    """A connection that stands until the first attempt and comes back when the test says so."""

    def __init__(self) -> None:
        self.back = asyncio.Event()
        self.asked_for = asyncio.Event()
        self._looks = 0

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        self._looks += 1
        return grpc.ChannelConnectivity.READY if self._looks == 1 else grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def channel_ready(self) -> None:
        self.asked_for.set()
        await self.back.wait()

    def unary_unary(self, *args: Any, **options: Any) -> Any: ...
    def unary_stream(self, *args: Any, **options: Any) -> Any: ...
    def stream_unary(self, *args: Any, **options: Any) -> Any: ...
    def stream_stream(self, *args: Any, **options: Any) -> Any: ...
    async def wait_for_state_change(self, last_observed_state: object) -> None: ...
    async def close(self, grace: float | None = None) -> None: ...
    async def __aenter__(self) -> Any: ...
    async def __aexit__(self, *exception: object) -> None: ...


async def send(flaky: Flaky, connection: Connection) -> str:
    return await repeated(
        flaky,
        "request",
        transport=Transport(None, None, (), connection),
        allowed=30.0,
        connect=1.0,
        again=lambda error: True,
        pace=AT_ONCE,
    )


async def test_nothing_is_sent_while_the_connection_is_down() -> None:
    flaky, connection = Flaky(1), Connection()
    task = asyncio.create_task(send(flaky, connection))
    await connection.asked_for.wait()
    assert len(flaky.times) == 1
    connection.back.set()
    assert await task == "request"
    assert len(flaky.times) == 2


async def test_a_manager_that_says_when_to_come_back_is_not_asked_before() -> None:
    delay = error_details_pb2.RetryInfo()
    delay.retry_delay.FromMilliseconds(150)
    detail = any_pb2.Any()
    detail.Pack(delay)
    flaky, connection = Flaky(1, status_pb2.Status(details=[detail]).SerializeToString()), Connection()
    connection.back.set()
    assert await send(flaky, connection) == "request"
    assert flaky.times[1] - flaky.times[0] >= 0.15


def test_the_pace_doubles_up_to_its_cap_and_is_random_below() -> None:
    steady = Pace(first=0.1, cap=1.0, rng=lambda: 1.0)
    assert [steady.delay(attempt) for attempt in (1, 2, 3, 4, 5, 5000)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert Pace(first=0.1, cap=1.0, rng=lambda: 0.5).delay(2) == 0.1
