"""A command by gRPC: the direct courier's way, in lists or as a call of the participant's method, and the bridge's.

How a call ended becomes an outcome by CONTRACT.md, "Outcomes of Confirm and Cancel", over gRPC.
"""

from __future__ import annotations

import grpc
import grpc.aio

from tcc import wire
from tcc.streams import NotOffered, StreamEnded
from tcc.tracing import Tags, TraceParent, Tracing
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller import metadata
from tcc_server.caller.channels import Channels
from tcc_server.caller.streams import Streams


class CommandCaller:
    """Calls participants over their channels.

    Args:
        streams: send commands in lists to participants that take them.
    """

    def __init__(self, channels: Channels, tracing: Tracing | None = None, *, streams: bool = True) -> None:
        self._channels = channels
        self._tracing = tracing or Tracing()
        self._streams = streams

    async def call(self, command: Command, timeout: float) -> Outcome:
        """Call the command's method; whatever happens within `timeout` seconds is an outcome."""
        confirm = command.phase == transaction_pb2.PHASE_CONFIRM
        path = command.methods.confirm_method if confirm else command.methods.cancel_method
        try:
            streams = self._channels.streams(command.participant)
        except KeyError:
            return not_configured(command)
        tags = Tags(
            command.gid, command.branch, "confirm" if confirm else "cancel", command.attempt, command.participant
        )
        with self._tracing.call(path, TraceParent(command.traceparent, command.tracestate), tags) as span:
            outcome = await _streamed(streams, command, span.trace, timeout) if self._streams else None
            if outcome is None:
                outcome = await self._unary(command, path, span.trace, timeout)
            span.ended(wire.STATUS_BY_NUMBER[outcome.code], outcome.message)
            span.say("tcc.outcome", transaction_pb2.OutcomeKind.Name(outcome.kind).removeprefix("OUTCOME_KIND_"))
        return outcome

    async def _unary(self, command: Command, path: str, trace: TraceParent, timeout: float) -> Outcome:
        outcome = _of(command)
        method = self._channels.method(command.participant, path)
        try:
            await method(command.request, timeout=timeout, metadata=metadata.for_command(command, trace))
        except grpc.aio.AioRpcError as error:
            trailers = tuple(error.trailing_metadata() or ())
            _read_failure(error.code(), error.details() or "", trailers, outcome)
        else:
            outcome.kind = transaction_pb2.OUTCOME_KIND_DONE
        return outcome


async def _streamed(streams: Streams, command: Command, trace: TraceParent, timeout: float) -> Outcome | None:
    """The command as an item of a list; None where the participant takes none."""
    sent = Command()
    sent.CopyFrom(command)
    sent.traceparent, sent.tracestate = trace
    try:
        return await streams.command(sent, timeout)
    except NotOffered:
        return None
    except TimeoutError:
        outcome = _of(command)
        _read_failure(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {timeout:g} s", (), outcome)
    except StreamEnded as ended:
        outcome = _of(command)
        _read_failure(grpc.StatusCode.UNAVAILABLE, ended.details, ended.trailers, outcome)
    return outcome


def _of(command: Command) -> Outcome:
    return Outcome(
        namespace=command.namespace,
        gid=command.gid,
        branch=command.branch,
        phase=command.phase,
        attempt=command.attempt,
    )


def not_configured(command: Command) -> Outcome:
    """The answer to a command for a participant that the configuration does not have: it says what to do."""
    outcome = _of(command)
    outcome.kind = transaction_pb2.OUTCOME_KIND_RETRY
    outcome.code = grpc.StatusCode.UNAVAILABLE.value[0]
    outcome.message = f"participant {command.participant} is not configured: add it, or resolve the transaction"
    return outcome


def _read_failure(code: grpc.StatusCode, message: str, trailers: tuple[metadata.Entry, ...], outcome: Outcome) -> None:
    details = metadata.status_details(trailers)
    info = wire.error_info(details)
    reason = info.reason if info is not None else ""
    match reason:
        case wire.CONTRADICTED:
            outcome.kind = transaction_pb2.OUTCOME_KIND_CONTRADICTED
        case wire.NO_TRY:
            outcome.kind = transaction_pb2.OUTCOME_KIND_NO_TRY
        case wire.BUSY:
            outcome.kind = transaction_pb2.OUTCOME_KIND_BUSY
        case _:
            outcome.kind = transaction_pb2.OUTCOME_KIND_RETRY
    if info is not None:
        outcome.reason = info.metadata.get("reason", "")
        outcome.fence_state = info.metadata.get("fence_state", "")
    elif code is grpc.StatusCode.UNAVAILABLE and not details:
        outcome.reason = wire.UNREACHABLE  # gRPC's own answer: nobody was there
    outcome.code = code.value[0]
    outcome.message = message
    hint = wire.retry_delay(details)
    if hint is not None:
        outcome.retry_after.CopyFrom(wire.seconds(max(0.0, hint)))
