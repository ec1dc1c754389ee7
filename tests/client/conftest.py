"""A fake manager on a real loopback connection, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
import pytest

import tcc
from services.accounts.v1.accounts_pb2 import CreditRequest, DebitRequest
from tcc.v1.manager_pb2_grpc import add_TransactionManagerServicer_to_server
from tests.client.fake_manager import FakeManager

DEBIT = DebitRequest(account="a", amount=30)
CREDIT = CreditRequest(account="b", amount=30)


@dataclass(frozen=True)
class Served:
    """A fake manager and where it is."""

    fake: FakeManager
    address: str


@pytest.fixture(params=["lists", "calls"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """A manager that takes plans in lists, and one that does not."""
    fake = FakeManager(streams=request.param == "lists")
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_TransactionManagerServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Served(fake, f"127.0.0.1:{port}")
    await server.stop(None)


@pytest.fixture
def fake(served: Served) -> FakeManager:
    return served.fake


@pytest.fixture
async def manager(served: Served) -> AsyncIterator[tcc.Manager]:
    async with tcc.Manager(served.address, margin=0.3) as manager:
        yield manager
