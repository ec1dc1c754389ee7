"""What every participant's server offers beside its own services: `tcc.v1.Participant`, and health."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from tcc import wire
from tcc.actions import Action
from tcc.participant._answer import TryAnswer, not_a_branch
from tcc.participant._call import NotABranch, Said, from_item, said_in, tags_in, trace_in
from tcc.participant._runtime import ParticipantRuntime
from tcc.participant._together import CommandsTogether, TriesTogether
from tcc.streams import ListServer, parts
from tcc.tracing import Tags, TraceParent, Tracing
from tcc.v1 import participant_pb2, participant_pb2_grpc, transaction_pb2

_TryItem = participant_pb2.TryStreamRequest.Item
_Command = participant_pb2.Command
_Outcome = participant_pb2.Outcome
_TryAnswer: TypeAlias = tuple[int, TryAnswer]
"""The id of an item, and its answer."""

_MUCH_TO_DO = 1.0
"""Seconds after which a command is to come again that there was no room for."""
_ITEM_BYTES = 64
"""Of an answer, beside what it says."""
_LAST_WORD = 0.2
"""Seconds in which a watcher of health may hear of the end; one that watches an unknown service hears nothing."""


class ParticipantService(participant_pb2_grpc.ParticipantServicer):
    """Describes the server to a manager, and takes its Tries and commands in lists.

    Args:
        describe: gives the participants by name, with their actions.
        runtime: runs the phases.
        tracing: makes their spans.
        streams: offer the streams. Without them managers call the methods themselves, and interceptors see each call.
        at_once: Tries, and commands, of one stream that are worked on at a time; None: any number.
    """

    def __init__(
        self,
        describe: Callable[[], participant_pb2.DescribeResponse],
        runtime: ParticipantRuntime,
        tracing: Tracing,
        *,
        streams: bool,
        at_once: int | None,
    ) -> None:
        self._describe = describe
        self._runtime = runtime
        self._tracing = tracing
        self._streams = streams
        self._tries: ListServer[_TryItem, _TryAnswer] = ListServer(
            lambda message: message.items,
            self._try,
            _failed_try,
            lambda answers: map(_pack_tries, parts(answers, _bytes_of)),
            at_once=at_once or sys.maxsize,
            join=self._join_tries,
        )
        self._commands: ListServer[_Command, _Outcome] = ListServer(
            lambda message: message.commands,
            self._command,
            _failed_command,
            lambda outcomes: map(_pack_outcomes, parts(outcomes, _Outcome.ByteSize)),
            at_once=at_once or sys.maxsize,
            join=self._join_commands,
        )

    async def Describe(  # noqa: N802  gRPC names it
        self, request: participant_pb2.DescribeRequest, context: Any
    ) -> participant_pb2.DescribeResponse:
        """The server's participants and actions."""
        return self._describe()

    async def TryStream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802  a coroutine that writes is gRPC's other way to stream
        """Tries in lists."""
        await self._serve(self._tries, request_iterator, context)

    async def CommandStream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802  as above
        """Commands in lists."""
        await self._serve(self._commands, request_iterator, context)

    def end_streams(self) -> None:
        """Take nothing more by streams; they end once what they brought is answered."""
        self._tries.end()
        self._commands.end()

    async def _serve(self, server: ListServer[Any, Any], messages: Any, context: Any) -> None:
        if not self._streams:
            text = "this server has interceptors, which see calls of its methods only: call those"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)
        await server.serve(messages, context)

    async def _try(self, item: _TryItem, context: Any) -> _TryAnswer:
        named = item.methods
        methods = (named.try_method, named.confirm_method, named.cancel_method)
        said = said_in(item)
        trace = trace_in(said)
        begun = self._tracing.passing(trace) or self._tracing.served(methods[0], trace, tags_in(said))
        with begun as span:
            try:
                call = from_item(item, methods, said, context.peer)
            except NotABranch as error:
                answer = not_a_branch(error)
            else:
                answer = await self._runtime.tried(call, context)
            span.ended(answer.code, answer.message)
        return item.id, answer

    async def _command(self, command: _Command, context: Any) -> _Outcome:
        trace = TraceParent(command.traceparent, command.tracestate)
        begun = self._tracing.passing(trace)
        if begun is not None:
            with begun:
                return await self._runtime.command(command, peer=context.peer)
        confirm = command.phase == transaction_pb2.PHASE_CONFIRM
        path = command.methods.confirm_method if confirm else command.methods.cancel_method
        tags = Tags(command.gid, command.branch, "confirm" if confirm else "cancel", command.attempt)
        with self._tracing.served(path, trace, tags) as span:
            outcome = await self._runtime.command(command, peer=context.peer)
            span.ended(wire.STATUS_BY_NUMBER[outcome.code], outcome.message)
        return outcome

    def _join_tries(
        self, items: Iterable[_TryItem], context: Any, tell: Callable[[Sequence[_TryAnswer]], None]
    ) -> tuple[TriesTogether[_TryItem] | None, Iterable[_TryItem]]:
        shared = self._runtime.shares
        if shared is None:
            return None, items
        together = TriesTogether[_TryItem](
            self._runtime, shared, lambda told: tell([(item.id, answer) for item, answer in told])
        )
        others = []
        for item in items:
            said = said_in(item)
            begun = self._tracing.passing(trace_in(said))
            if begun is None or not self._joins(together, item, said, begun, context):
                others.append(item)
        return (together if together.untold else None), others

    def _joins(
        self,
        together: TriesTogether[_TryItem],
        item: _TryItem,
        said: Said,
        begun: AbstractContextManager[object],
        context: Any,
    ) -> bool:
        named = item.methods
        methods = (named.try_method, named.confirm_method, named.cancel_method)
        try:
            call = from_item(item, methods, said, context.peer)
        except NotABranch:
            return False
        return together.add(call, context, begun, item)

    def _join_commands(
        self, commands: Iterable[_Command], context: Any, tell: Callable[[Sequence[_Outcome]], None]
    ) -> tuple[CommandsTogether[_Command] | None, Iterable[_Command]]:
        shared = self._runtime.shares
        if shared is None:
            return None, commands
        together = CommandsTogether[_Command](
            self._runtime, shared, lambda told: tell([outcome for _, outcome in told]), peer=context.peer
        )
        others = []
        for command in commands:
            begun = self._tracing.passing(TraceParent(command.traceparent, command.tracestate))
            if begun is None or not together.add_command(command, None, begun, command):
                others.append(command)
        return (together if together.untold else None), others


def _pack_tries(answers: Sequence[_TryAnswer]) -> participant_pb2.TryStreamResponse:
    message = participant_pb2.TryStreamResponse()
    add = message.items.add  # in their place: a message of its own for each would be copied there
    for number, answer in answers:
        said = add(id=number, reply=answer.reply)
        if answer.code is not grpc.StatusCode.OK:
            said.status.code = answer.code.value[0]
            said.status.message = answer.message
            said.status.details = answer.details
        for key, value in answer.trailers:
            said.trailers.add(key=key, value=value if isinstance(value, bytes) else value.encode())
    return message


def _bytes_of(answer: _TryAnswer) -> int:
    _, said = answer
    trailers = sum(len(key) + len(value) for key, value in said.trailers)
    return len(said.reply) + len(said.message) + len(said.details) + trailers + _ITEM_BYTES


def _pack_outcomes(outcomes: Sequence[_Outcome]) -> participant_pb2.OutcomeList:
    return participant_pb2.OutcomeList(outcomes=outcomes)


def _failed_try(item: _TryItem, code: grpc.StatusCode, text: str) -> _TryAnswer:
    return item.id, TryAnswer(code, text)


def _failed_command(command: _Command, code: grpc.StatusCode, text: str) -> _Outcome:
    outcome = participant_pb2.Outcome(
        namespace=command.namespace,
        gid=command.gid,
        branch=command.branch,
        phase=command.phase,
        attempt=command.attempt,
        kind=transaction_pb2.OUTCOME_KIND_RETRY,
        code=code.value[0],
        message=text,
    )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # nothing failed: there is too much to do
        outcome.kind = transaction_pb2.OUTCOME_KIND_BUSY
        outcome.retry_after.CopyFrom(wire.seconds(_MUCH_TO_DO))
    return outcome


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
