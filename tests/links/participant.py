"""A participant that does what the test told it to, over gRPC or in the process, and the links to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.empty_pb2 import Empty

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsServicer, add_AccountsServicer_to_server
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller.channels import Channels
from tcc_server.caller.grpc import GrpcCaller
from tcc_server.caller.local import LocalCaller
from tcc_server.caller.seam import Caller, TryCall
from tcc_server.core.model import Ask, Key, Methods
from tcc_server.core.policy import Policy
from tcc_server.courier.direct import DirectCourier
from tcc_server.courier.memory import MemoryCourier
from tcc_server.courier.rabbitmq import RabbitCourier
from tcc_server.courier.seam import Courier

Context: TypeAlias = Any
Behaviour: TypeAlias = Callable[[Context], Awaitable[None]]

METHODS = Methods(*(f"/services.accounts.v1.Accounts/{phase}Debit" for phase in ("Try", "Confirm", "Cancel")))
REQUEST = pb.DebitRequest(account="a", amount=1).SerializeToString()
HASH = b"\x01" * 16


async def _nothing(context: Context) -> None:
    """Succeeds."""


class Told(AccountsServicer):
    """Each phase runs the behaviour that the test set."""

    def __init__(self) -> None:
        self.on_try: Behaviour = _nothing
        self.on_confirm: Behaviour = _nothing
        self.runs: list[str] = []

    async def TryDebit(self, request: pb.DebitRequest, context: Context) -> pb.DebitReply:
        self.runs.append(f"try {tcc.branch().gid}")
        await self.on_try(context)
        return pb.DebitReply(reservation_id="held")

    async def ConfirmDebit(self, request: pb.DebitRequest, context: Context) -> Empty:
        self.runs.append(f"confirm {tcc.branch().gid}")
        await self.on_confirm(context)
        return Empty()

    async def CancelDebit(self, request: pb.DebitRequest, context: Context) -> Empty:
        self.runs.append(f"cancel {tcc.branch().gid}")
        return Empty()

    async def TryCredit(self, request: pb.CreditRequest, context: Context) -> pb.CreditReply:
        raise NotImplementedError

    async def ConfirmCredit(self, request: pb.CreditRequest, context: Context) -> Empty:
        raise NotImplementedError

    async def CancelCredit(self, request: pb.CreditRequest, context: Context) -> Empty:
        raise NotImplementedError

    async def OpenAccount(self, request: pb.OpenAccountRequest, context: Context) -> pb.Account:
        raise NotImplementedError

    async def GetAccount(self, request: pb.GetAccountRequest, context: Context) -> pb.Account:
        raise NotImplementedError

    async def GetTotals(self, request: pb.GetTotalsRequest, context: Context) -> pb.Totals:
        raise NotImplementedError


class Links:
    """What the manager has towards a participant named `told`, and one named `other` of the same kind."""

    def __init__(self, caller: Caller, courier: Courier, told: Told, other: Told) -> None:
        self.caller, self.courier, self.told, self.other = caller, courier, told, other
        self.outcomes: asyncio.Queue[Outcome] = asyncio.Queue()

    async def reserve(self, gid: str = "g", participant: str = "told") -> None:
        """A Try that holds."""
        assert (await self.caller.call(call(gid, participant))).status.code == 0

    async def outcome(self) -> Outcome:
        """The next outcome."""
        async with asyncio.timeout(10):
            return await self.outcomes.get()


class Passing(grpc.aio.ServerInterceptor):
    """Does nothing; but a server with an interceptor takes no lists."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)


@asynccontextmanager
async def links(kind: str, rabbitmq: str | None = None) -> AsyncIterator[Links]:
    """Links of a kind.

    Args:
        kind: `lists` on streams that are found out first, or `known`; `calls` of the methods; `local`; `rabbitmq`.
        rabbitmq: its URL, for that kind.
    """
    services = {"told": Told(), "other": Told()}
    servers = {}
    for name, service in services.items():
        servers[name] = tcc.ParticipantServer(
            "127.0.0.1:0",
            fence=tcc.MemoryFence(row_wait=0.2),
            name=name,
            rabbitmq=rabbitmq,
            interceptors=(Passing(),) if kind == "calls" else (),
        )
        add_AccountsServicer_to_server(service, servers[name])
        if kind != "local":
            await servers[name].start()
    channels = None
    caller: Caller
    courier: Courier
    if kind != "local":
        channels = Channels({name: f"127.0.0.1:{server.port}" for name, server in servers.items()})
        caller, courier = GrpcCaller(channels), DirectCourier(channels)
        if kind == "known":
            for name in servers:
                streams = channels.streams(name)
                streams._tries.works = streams._commands.works = True
        if rabbitmq is not None:
            courier = RabbitCourier(rabbitmq, replica="r", participants=servers, answer_wait=Policy().answer_wait)
    else:
        caller = LocalCaller({name: server.runtime for name, server in servers.items()})
        courier = MemoryCourier({name: server.runtime.command for name, server in servers.items()})
    made = Links(caller, courier, services["told"], services["other"])
    await courier.start(made.outcomes.put_nowait)
    try:
        yield made
    finally:
        await courier.close()
        if channels is not None:
            await channels.close()
            for server in servers.values():
                await server.stop(0)


def call(gid: str = "g", participant: str = "told", *, timeout: float = 5.0, attempt: int = 1) -> TryCall:
    """An attempt of a Try."""
    ask = Ask("0", participant, METHODS, REQUEST, HASH)
    return TryCall(Key("default", gid), ask, attempt, timeout, 4_000_000_000.0)


def command(gid: str = "g", participant: str = "told", *, confirm: bool = True, request_hash: bytes = HASH) -> Command:
    """A command."""
    return Command(
        namespace="default",
        gid=gid,
        branch="0",
        phase=transaction_pb2.PHASE_CONFIRM if confirm else transaction_pb2.PHASE_CANCEL,
        methods=transaction_pb2.Methods(
            try_method=METHODS.try_method,
            confirm_method=METHODS.confirm_method,
            cancel_method=METHODS.cancel_method,
        ),
        request=REQUEST,
        request_hash=request_hash,
        attempt=1,
        participant=participant,
    )
