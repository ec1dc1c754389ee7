"""A command as a call of the participant's own Confirm or Cancel method: the direct courier's way, and the bridge's.

How such a call ended becomes an outcome by CONTRACT.md, "Outcomes of Confirm and Cancel", over gRPC.
"""

from __future__ import annotations

import grpc
import grpc.aio

from tcc import wire
from tcc.tracing import Tags, TraceParent, Tracing
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller import metadata
from tcc_server.caller.channels import Channels


class CommandCaller:
    """Calls participants over their channels."""

    def __init__(self, channels: Channels, tracing: Tracing | None = None) -> None:
        self._channels = channels
        self._tracing = tracing or Tracing()

    async def call(self, command: Command, timeout: float) -> Outcome:
        """Call the command's method; whatever happens within `timeout` seconds is an outcome."""
        outcome = Outcome(
            namespace=command.namespace,
            gid=command.gid,
            branch=command.branch,
            phase=command.phase,
            attempt=command.attempt,
        )
        confirm = command.phase == transaction_pb2.PHASE_CONFIRM
        path = command.methods.confirm_method if confirm else command.methods.cancel_method
        try:
            method = self._channels.method(command.participant, path)
        except KeyError:
            return not_configured(command)
        tags = Tags(
            command.gid, command.branch, "confirm" if confirm else "cancel", command.attempt, command.participant
        )
        with self._tracing.call(path, TraceParent(command.traceparent, command.tracestate), tags) as span:
            sent = metadata.for_command(command, span.trace)
            try:
                await method(command.request, timeout=timeout, metadata=sent)
            except grpc.aio.AioRpcError as error:
                _read_failure(error, outcome)
                span.ended(error.code(), error.details() or "")
            else:
                outcome.kind = transaction_pb2.OUTCOME_KIND_DONE
                span.ended(grpc.StatusCode.OK)
            span.say("tcc.outcome", transaction_pb2.OutcomeKind.Name(outcome.kind).removeprefix("OUTCOME_KIND_"))
        return outcome


def not_configured(command: Command) -> Outcome:
    """The answer to a command for a participant that the configuration does not have: it says what to do."""
    return Outcome(
        namespace=command.namespace,
        gid=command.gid,
        branch=command.branch,
        phase=command.phase,
        attempt=command.attempt,
        kind=transaction_pb2.OUTCOME_KIND_RETRY,
        code=grpc.StatusCode.UNAVAILABLE.value[0],
        message=f"participant {command.participant} is not configured: add it, or resolve the transaction",
    )


def _read_failure(error: grpc.aio.AioRpcError, outcome: Outcome) -> None:
    details = metadata.status_details(tuple(error.trailing_metadata() or ()))
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
    elif error.code() is grpc.StatusCode.UNAVAILABLE and not details:
        outcome.reason = wire.UNREACHABLE  # gRPC's own answer: nobody was there
    outcome.code = error.code().value[0]
    outcome.message = error.details() or ""
    hint = wire.retry_delay(details)
    if hint is not None:
        outcome.retry_after.CopyFrom(wire.seconds(max(0.0, hint)))
