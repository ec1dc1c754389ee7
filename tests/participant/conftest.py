"""One scripted service, reached in both ways."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest

from tcc.fence import MemoryFence
from tests.participant.scripted import Direct, Grpc, Scripted, Way, make_server


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def fence() -> MemoryFence:
    return MemoryFence(row_wait=0.05)


@pytest.fixture(params=["direct", "grpc"])
async def way(request: pytest.FixtureRequest, scripted: Scripted, fence: MemoryFence) -> AsyncIterator[Way]:
    server = make_server(scripted, fence)
    if request.param == "direct":
        yield Direct(server)
        return
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Grpc(channel)
    await server.stop(None)
