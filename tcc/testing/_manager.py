"""An in-process manager: the real engine and the real gRPC face, over memory instead of disk and network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tcc.client._manager import Manager
from tcc.errors import UsageError
from tcc.participant import ParticipantRuntime, ParticipantServer
from tcc.testing._link import Link
from tcc.v1 import manager_pb2_grpc
from tcc_server.api.requests import Limits, Requests
from tcc_server.api.service import ManagerService
from tcc_server.caller.local import LocalCaller
from tcc_server.clock import RandomIds, SystemClock, SystemRng
from tcc_server.core.policy import Policy
from tcc_server.courier.memory import MemoryCourier
from tcc_server.engine.engine import Engine
from tcc_server.engine.worker import Seams
from tcc_server.log.memory import MemoryLog


@asynccontextmanager
async def manager(*servers: ParticipantServer) -> AsyncIterator[Manager]:
    """A client of a manager that knows these participants.

    Args:
        servers: with their servicers registered; they need not be started. Each is known under the names that it
            would describe itself with.

    Raises:
        UsageError: a server has no action, or two have the same name.

    Everything is in memory and ends with the block; what a transaction still owed then is not carried out. To see
    confirmed balances, wait for the end: `execute(..., wait=tcc.COMPLETED)`.
    """
    runtimes = _runtimes(servers)
    ids = RandomIds()
    replica = ids.replica_id()
    log = MemoryLog(replica=replica)
    courier = MemoryCourier({name: runtime.command for name, runtime in runtimes.items()})
    seams = Seams(log, LocalCaller(runtimes), courier, SystemClock(), ids, SystemRng())
    engine = Engine(seams, replica=replica, policy=Policy())
    service = ManagerService(engine, Requests(runtimes.keys(), Limits()))
    link = Link()
    manager_pb2_grpc.add_TransactionManagerServicer_to_server(service, link)  # type: ignore[arg-type]  # it has the two methods that are called
    await log.open()
    try:
        await engine.start()
        async with Manager(channel=link) as client:
            yield client
    finally:
        await link.close()
        await engine.close()
        await log.close()


def _runtimes(servers: tuple[ParticipantServer, ...]) -> dict[str, ParticipantRuntime]:
    runtimes: dict[str, ParticipantRuntime] = {}
    for server in servers:
        described = server.describe().participants
        if not described:
            raise UsageError("a server has no action: register its servicer first, with add_..._to_server")
        for participant in described:
            if participant.name in runtimes:
                raise UsageError(
                    f"two servers are named {participant.name}: give each its own ParticipantServer(name=)"
                )
            runtimes[participant.name] = server.runtime
    return runtimes
