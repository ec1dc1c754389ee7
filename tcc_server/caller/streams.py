"""A participant's Tries and commands in lists, where its server offers them: every one that is built with the SDK does.

A server that has no streams is called method by method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import grpc.aio

from tcc.streams import Asked, ListStream, NotOffered
from tcc.v1 import participant_pb2
from tcc.v1.participant_pb2 import Command, Outcome, TryStreamResponse
from tcc_server.caller.seam import TryCall
from tcc_server.caller.try_item import try_item

_SERVICE: Final = "/tcc.v1.Participant/"
M = TypeVar("M")
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
        """Tries were answered here before, and none was turned away since."""
        return self._tries.works

    @property
    def take_commands(self) -> bool:
        """The same of commands."""
        return self._commands.works

    async def attempt(self, call: TryCall, traceparent: str, tracestate: str) -> TryStreamResponse.Item:
        """One Try.

        Raises:
            NotOffered: call the method instead.
            StreamEnded, TimeoutError: it is unknown.
        """
        if not self._tries.offered:
            raise NotOffered
        self._count = number = self._count + 1
        return await self._tries.ask(number, try_item(number, call, traceparent, tracestate), call.timeout)

    def put_try(
        self, call: TryCall, answered: Callable[[TryStreamResponse.Item | Exception], object]
    ) -> Asked[int, TryStreamResponse.Item]:
        """As `attempt`, without waiting, in the transaction's own trace; see `ListStream.put`."""
        self._count = number = self._count + 1
        return self._tries.put(number, try_item(number, call, *call.trace), call.timeout, answered)

    async def command(self, command: Command, timeout: float) -> Outcome:
        """One command. Raises as `attempt`."""
        if not self._commands.offered:
            raise NotOffered
        return await self._commands.ask(_key(command), command.SerializeToString(), timeout)

    def put_command(
        self, command: Command, timeout: float, answered: Callable[[Outcome | Exception], object]
    ) -> Asked[CommandKey, Outcome]:
        """As `command`, without waiting; see `ListStream.put`."""
        return self._commands.put(_key(command), command.SerializeToString(), timeout, answered)

    async def close(self) -> None:
        """End both; what is under way is unknown."""
        await asyncio.gather(self._tries.close(), self._commands.close())


_id: Callable[[Any], int] = attrgetter("id")
_key: Callable[[Command | Outcome], CommandKey] = attrgetter("namespace", "gid", "branch", "phase", "attempt")


def _tries(message: TryStreamResponse) -> Iterable[tuple[int, TryStreamResponse.Item]]:
    items = list(message.items)
    return zip(map(_id, items), items, strict=True)


def _outcomes(message: participant_pb2.OutcomeList) -> Iterable[tuple[CommandKey, Outcome]]:
    outcomes = list(message.outcomes)
    return zip(map(_key, outcomes), outcomes, strict=True)
