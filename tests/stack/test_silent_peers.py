"""A peer that says nothing any more is left, and one that only has nothing to say is not.

Pings tell them apart. So that no test takes half a minute, all times of gRPC's keepalive are divided by one number, and
what they are to each other stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

import tcc
from services.accounts.v1.accounts_pb2_grpc import add_AccountsServicer_to_server
from tcc.client import _transport
from tcc.participant import _server
from tcc.streams import StreamEnded
from tcc_server import app
from tcc_server.app import ManagerApp
from tcc_server.caller import channels
from tcc_server.caller.channels import Channels
from tcc_server.caller.seam import TryCall
from tcc_server.config import Config
from tcc_server.core.model import Ask, Key, Methods
from tests.links.participant import Told
from tests.stack.books import Asked, Run
from tests.stack.installation import Stack
from tests.stack.load import planned

Options = tuple[tuple[str, Any], ...]

_INTERVALS = ("grpc.keepalive_time_ms", "grpc.http2.min_ping_interval_without_data_ms")
_TIMEOUTS = ("grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
_MANAGER = "/tcc.v1.TransactionManager/ExecuteStream"
_PARTICIPANT = "/tcc.v1.Participant/TryStream"


def divided(options: Iterable[tuple[str, Any]], by: int, *names: str) -> Options:
    """The options, with shorter times."""
    return tuple((name, value // by if name in names else value) for name, value in options)


async def test_a_client_leaves_a_manager_that_fell_silent(stack: Stack, run: Run) -> None:
    options = divided(_transport._OPTIONS.items(), 10, *_INTERVALS, *_TIMEOUTS)
    addresses = ",".join(stack.managers[number].address for number in (1, 0))
    async with tcc.Manager(f"ipv4:{addresses}", options=(*options, ("grpc.use_local_subchannel_pool", 1))) as client:

        async def transfer(number: int) -> None:
            asked = run.asked[f"{run.name}-{number}"] = Asked(*stack.far, run.accounts[0], 1)
            await client.execute(*planned(asked), gid=f"{run.name}-{number}", timeout=14)
            asked.told = tcc.Decision.CONFIRM

        await transfer(0)  # its stream stands, to the first of them
        stack.managers[1].pause()
        try:
            await transfer(1)
        finally:
            stack.managers[1].resume()
    async with stack.client(0) as other:
        await run.check(other)


async def test_a_manager_leaves_a_participant_that_fell_silent(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_OPTIONS", divided(channels._OPTIONS, 10, *_INTERVALS, *_TIMEOUTS))
    made = Channels({"b": stack.bank_b.address})
    try:
        streams = made.streams("b")
        methods = Methods("/no.Service/Try", "/no.Service/Confirm", "/no.Service/Cancel")
        no_action = TryCall(Key("default", "g"), Ask("0", "b", methods, b"", bytes(16)), 1, 10.0, time.time() + 30)
        await streams.attempt(no_action, "", "")
        stack.bank_b.pause()
        try:
            with pytest.raises(StreamEnded) as ended:
                await streams.attempt(no_action, "", "")
        finally:
            stack.bank_b.resume()
        assert ended.value.code is grpc.StatusCode.UNAVAILABLE
    finally:
        await made.close()


async def test_a_stream_on_which_nothing_is_said_stays_open_though_pings_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (app, _server):
        monkeypatch.setattr(module, "_OPTIONS", divided(module._OPTIONS, 80, *_INTERVALS))
    to_manager = divided(_transport._OPTIONS.items(), 80, *_INTERVALS)
    to_participant = divided(channels._OPTIONS, 80, *_INTERVALS)
    # gRPC takes the first of two options of one name.
    never_tired = ("grpc.http2.max_pings_without_data", 0)
    # A server that gRPC left as it is ends the connection of whoever goes on pinging it. This one pings at half the
    # pace of the others: when it is told so, they have long passed the number.
    clock = (("grpc.keepalive_time_ms", 500), never_tired)
    async with (
        manager() as our_manager,
        participant() as our_participant,
        plain() as without_sdk,
        idle(our_manager, _MANAGER, to_manager) as client,
        idle(our_participant, _PARTICIPANT, (never_tired, *to_participant)) as tireless,
        idle(without_sdk, _PARTICIPANT, to_participant) as gentle,
        idle(without_sdk, _PARTICIPANT, clock) as punished,
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="Too many pings"):
            await asyncio.wait_for(punished, 30)
        assert [client.done(), tireless.done(), gentle.done()] == [False, False, False]


@asynccontextmanager
async def manager() -> AsyncIterator[str]:
    """A manager's address."""
    app = ManagerApp(Config(listen="127.0.0.1:0", log="memory:"))
    await app.start()
    try:
        yield app.listen
    finally:
        await app.stop()


@asynccontextmanager
async def participant() -> AsyncIterator[str]:
    """A participant's address."""
    server = tcc.ParticipantServer("127.0.0.1:0", fence=tcc.MemoryFence())
    add_AccountsServicer_to_server(Told(), server)
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def plain() -> AsyncIterator[str]:
    """The address of a server that knows nothing of the SDK, and never answers."""

    async def listen(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    service, _, method = _PARTICIPANT.removeprefix("/").partition("/")
    handlers: dict[str, Any] = {method: grpc.stream_stream_rpc_method_handler(listen)}
    server = grpc.aio.server(
        handlers=[grpc.method_handlers_generic_handler(service, handlers)], options=[("grpc.so_reuseport", 0)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def idle(address: str, method: str, options: Options) -> AsyncIterator[asyncio.Task[object]]:
    """A stream on which nothing is said; the task waits for something."""
    async with grpc.aio.insecure_channel(address, (*options, ("grpc.use_local_subchannel_pool", 1))) as channel:
        await channel.channel_ready()
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(method)()
        reading = asyncio.create_task(call.read())
        try:
            yield reading
        finally:
            call.cancel()
            await asyncio.wait({reading})
