"""A participant's Tries and commands in lists, where its server offers them: every one that is built with the SDK does.

A server that has no streams is called method by method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import grpc.aio

from tcc.streams import ListStream, NotOffered
from tcc.tracing import Rpc
from tcc.v1 import participant_pb2
from tcc.v1.participant_pb2 import Command, Outcome, TryStreamRequest, TryStreamResponse

_SERVICE: Final = "/tcc.v1.Participant/"
M = TypeVar("M")
R = TypeVar("R")
_Opens: TypeAlias = "grpc.aio.StreamStreamMultiCallable[bytes, M]"  # generic for type checkers only
CommandKey: TypeAlias = tuple[str, str, str, int, int]


class Streams:
    """The two streams to one participant."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        tries: _Opens[TryStreamResponse] = channel.stream_stream(
            _SERVICE + "TryStream", response_deserializer=participant_pb2.TryStreamResponse.FromString
        )
        commands: _Opens[participant_pb2.OutcomeList] = channel.stream_stream(
            _SERVICE + "CommandStream", response_deserializer=participant_pb2.OutcomeList.FromString
        )
        self._tries: ListStream[int, TryStreamResponse.Item] = ListStream(tries, _tries)
        self._commands: ListStream[CommandKey, Outcome] = ListStream(commands, _outcomes)
        self._count = 0

    @property
    def take_tries(self) -> bool:
        """Tries were answered here before, and none was turned away lately."""
        return self._tries.works and self._tries.offered

    @property
    def take_commands(self) -> bool:
        """The same of commands."""
        return self._commands.works and self._commands.offered

    async def attempt(self, item: TryStreamRequest.Item, timeout: float) -> TryStreamResponse.Item:
        """One Try; its id is given here.

        Raises:
            NotOffered: call the method instead.
            StreamEnded, TimeoutError: it is unknown.
        """
        if not self._tries.offered:
            raise NotOffered
        item.id = self._next()
        return await self._tries.ask(item.id, item.SerializeToString(), timeout)

    def put_try(
        self, item: TryStreamRequest.Item, timeout: float, read: Callable[[TryStreamResponse.Item | Exception], R]
    ) -> asyncio.Future[R]:
        """As `attempt`, without waiting; see `ListStream.put`."""
        item.id = self._next()
        return self._tries.put(item.id, item.SerializeToString(), timeout, read)

    async def command(self, command: Command, timeout: float) -> Outcome:
        """One command. Raises as `attempt`."""
        if not self._commands.offered:
            raise NotOffered
        return await self._commands.ask(_key(command), command.SerializeToString(), timeout)

    def put_command(
        self, command: Command, timeout: float, read: Callable[[Outcome | Exception], Outcome]
    ) -> asyncio.Future[Outcome]:
        """As `command`, without waiting; see `ListStream.put`."""
        return self._commands.put(_key(command), command.SerializeToString(), timeout, read)

    def _next(self) -> int:
        self._count += 1
        return self._count

    async def close(self) -> None:
        """End both; what is under way is unknown."""
        await asyncio.gather(self._tries.close(), self._commands.close())


def end_if_dropped(answer: asyncio.Future[R], begun: AbstractContextManager[Rpc], span: Rpc) -> asyncio.Future[R]:
    """Ends the span of an item that nobody waits for any more: its answer, if it comes, is read by nobody."""
    if span.span.is_recording():
        answer.add_done_callback(partial(_dropped, begun))
    return answer


def _dropped(begun: AbstractContextManager[Rpc], answer: asyncio.Future[Any]) -> None:
    if answer.cancelled():
        begun.__exit__(None, None, None)


def _tries(message: TryStreamResponse) -> Iterable[tuple[int, TryStreamResponse.Item]]:
    return ((item.id, item) for item in message.items)


def _outcomes(message: participant_pb2.OutcomeList) -> Iterable[tuple[CommandKey, Outcome]]:
    return ((_key(outcome), outcome) for outcome in message.outcomes)


def _key(said: Command | Outcome) -> CommandKey:
    return (said.namespace, said.gid, said.branch, said.phase, said.attempt)
