"""What every participant's server offers beside its own services: `tcc.v1.Participant`, and health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from tcc.actions import Action
from tcc.v1 import participant_pb2, participant_pb2_grpc, transaction_pb2

_LAST_WORD = 0.2
"""Seconds in which a watcher of health may hear of the end; one that watches an unknown service hears nothing."""


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


class _WatchOver(Exception):
    """A watch has told its last state."""


class _Writer:
    """What a watch writes to, until it has told that the server ends."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def write(self, answer: health_pb2.HealthCheckResponse) -> None:
        await self._context.write(answer)
        if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:  # said by this server only when it ends
            raise _WatchOver


class Health(health_aio.HealthServicer):  # type: ignore[misc]  # the package ships no types
    """Health whose watches end with the server, so that a watcher does not hold up its shutdown."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[None]] = set()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802  gRPC names it
        """States of a service as they change."""
        # In a task of its own: a call whose own task is cancelled stays open.
        watch = asyncio.create_task(super().Watch(request, _Writer(context)))
        self._watches.add(watch)
        try:
            await asyncio.wait((watch,))
            with suppress(_WatchOver, asyncio.CancelledError):
                watch.result()
        finally:
            self._watches.discard(watch)
            watch.cancel()

    async def shut_down(self) -> None:
        """Says NOT_SERVING to all, and ends the watches."""
        await self.enter_graceful_shutdown()
        if self._watches:
            _, unmoved = await asyncio.wait(self._watches, timeout=_LAST_WORD)
            for watch in unmoved:
                watch.cancel()


def methods_of(action: Action) -> transaction_pb2.Methods:
    """An action as the wire has it."""
    return transaction_pb2.Methods(
        try_method=action.try_method, confirm_method=action.confirm_method, cancel_method=action.cancel_method
    )
