"""Answers that no participant of the SDK gives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from tcc.v1.participant_pb2 import TryStreamRequest, TryStreamResponse
from tcc.v1.participant_pb2_grpc import ParticipantServicer, add_ParticipantServicer_to_server
from tcc.v1.transaction_pb2 import CallStatus
from tcc_server.caller.channels import Channels
from tcc_server.caller.grpc import GrpcCaller
from tests.links.participant import call


class Stranger(ParticipantServicer):
    """Answers each Try with a status code of its own."""

    async def TryStream(
        self, requests: AsyncIterator[TryStreamRequest], context: Any
    ) -> AsyncIterator[TryStreamResponse]:
        await context.send_initial_metadata((("tcc-lists", "1"),))
        async for message in requests:
            status = CallStatus(code=42, message="as we say here")
            yield TryStreamResponse(items=[TryStreamResponse.Item(id=item.id, status=status) for item in message.items])

    def CommandStream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        raise NotImplementedError

    async def Describe(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


async def test_a_code_that_grpc_does_not_know_is_unknown() -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_ParticipantServicer_to_server(Stranger(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    attempt = call()
    channels = Channels({attempt.ask.participant: f"127.0.0.1:{port}"})
    try:
        reply = await GrpcCaller(channels).call(attempt)
    finally:
        await channels.close()
        await server.stop(None)
    assert (reply.status.code, reply.status.message) == (grpc.StatusCode.UNKNOWN.value[0], "as we say here")
