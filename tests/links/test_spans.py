"""The span of a call by lists ends also where nobody waits for its answer any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.accounts.v1.accounts_pb2_grpc import add_AccountsServicer_to_server
from tcc import MemoryFence, ParticipantServer
from tcc.tracing import Tracing
from tcc_server.caller.channels import Channels
from tcc_server.caller.commands import CommandCaller
from tcc_server.caller.grpc import GrpcCaller
from tests.links.participant import Told, call, command


@pytest.mark.parametrize("kind", ["try", "command"])
async def test_a_call_that_is_given_up_has_its_span_all_the_same(kind: str) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    told, begun = Told(), asyncio.Event()

    async def hang(context: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    server = ParticipantServer("127.0.0.1:0", fence=MemoryFence(), name="told")
    add_AccountsServicer_to_server(told, server)
    await server.start()
    channels = Channels({"told": f"127.0.0.1:{server.port}"})
    caller, commands = GrpcCaller(channels, Tracing(provider)), CommandCaller(channels, Tracing(provider))
    assert (await caller.call(call())).status.code == 0
    if kind == "command":
        await commands.call(command("unknown"), 5.0)  # so that lists are known to be taken
    spans.clear()
    told.on_try = told.on_confirm = hang
    given_up = asyncio.ensure_future(caller.call(call("other")) if kind == "try" else commands.call(command(), 5.0))
    await begun.wait()
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert len(spans.get_finished_spans()) == 1
    await channels.close()
    await server.stop(0)
    provider.shutdown()
