"""What every participant's server offers beside its own services: `tcc.v1.Participant`, and health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1.health import aio as health_aio

from tcc.actions import Action
from tcc.v1 import participant_pb2, participant_pb2_grpc, transaction_pb2


class ParticipantService(participant_pb2_grpc.ParticipantServicer):
    """Describes the server to a manager.

    Args:
        describe: gives the participants by name, with their actions.
    """

    def __init__(self, describe: Callable[[], participant_pb2.DescribeResponse]) -> None:
        self._describe = describe

    async def Describe(  # noqa: N802  gRPC names it
        self, request: participant_pb2.DescribeRequest, context: Any
    ) -> participant_pb2.DescribeResponse:
        """The server's participants and actions."""
        return self._describe()

    async def TryStream(self, request_iterator: Any, context: Any) -> AsyncIterator[participant_pb2.TryStreamResponse]:  # noqa: N802  gRPC names it
        """Not offered yet: managers then call the methods one by one."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "TryStream is not offered: call the methods themselves")
        yield participant_pb2.TryStreamResponse()  # makes this a stream's handler

    async def CommandStream(self, request_iterator: Any, context: Any) -> AsyncIterator[participant_pb2.OutcomeList]:  # noqa: N802  gRPC names it
        """Not offered yet: managers then call the methods one by one."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "CommandStream is not offered: call the methods themselves")
        yield participant_pb2.OutcomeList()  # makes this a stream's handler


class Health(health_aio.HealthServicer):  # type: ignore[misc]  # the package ships no types
    """Health whose watches end with the server, so that a watcher does not hold up its shutdown."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[Any] | None] = set()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802  gRPC names it
        """States of a service as they change."""
        task = asyncio.current_task()
        self._watches.add(task)
        try:
            await super().Watch(request, context)
        finally:
            self._watches.discard(task)

    async def shut_down(self) -> None:
        """Says NOT_SERVING to all, and ends the watches."""
        await self.enter_graceful_shutdown()
        await asyncio.sleep(0)  # lets the watches write that
        for task in self._watches:
            if task is not None:
                task.cancel()


def methods_of(action: Action) -> transaction_pb2.Methods:
    """An action as the wire has it."""
    return transaction_pb2.Methods(
        try_method=action.try_method, confirm_method=action.confirm_method, cancel_method=action.cancel_method
    )
