"""The courier of the embedded default: each command is a call of the participant's own Confirm or Cancel method.

Participants do not wait for each other: every one has its own line and its own bound of calls in flight. Outcomes
follow CONTRACT.md, "Over gRPC".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from tcc import wire
from tcc.tracing import Tags, TraceParent, Tracing
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller import metadata
from tcc_server.caller.channels import Channels
from tcc_server.courier.seam import OutcomeSink

_Branch = tuple[str, str, str]


class DirectCourier:
    """Carries commands by gRPC.

    Args:
        call_timeout: seconds for one call; a little more than a participant's handler timeout.
        calls_in_flight: at most so many for each participant.
    """

    def __init__(
        self,
        channels: Channels,
        tracing: Tracing | None = None,
        *,
        call_timeout: float = 35.0,
        calls_in_flight: int = 256,
    ) -> None:
        self._channels = channels
        self._tracing = tracing or Tracing()
        self._call_timeout = call_timeout
        self._calls_in_flight = calls_in_flight
        self._lines: dict[str, _Line] = {}
        self._sink: OutcomeSink | None = None

    async def start(self, sink: OutcomeSink) -> None:
        """Begin to work; outcomes go to `sink`."""
        self._sink = sink

    def send(self, commands: Sequence[Command]) -> None:
        """Put each command into its participant's line."""
        for command in commands:
            line = self._lines.get(command.participant)
            if line is None:
                line = self._lines[command.participant] = _Line(self, self._calls_in_flight)
            line.put(command)

    async def close(self) -> None:
        """Drop what waits and cancel what is under way."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.close()

    def tell(self, outcome: Outcome) -> None:
        """Give an outcome to the sink."""
        if self._sink is not None:
            self._sink(outcome)

    async def call(self, command: Command) -> Outcome:
        """Call the command's method; whatever happens is an outcome."""
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
            outcome.kind = transaction_pb2.OUTCOME_KIND_RETRY
            outcome.code = grpc.StatusCode.UNAVAILABLE.value[0]
            outcome.message = f"participant {command.participant} is not configured: add it, or resolve the transaction"
            return outcome
        tags = Tags(
            command.gid, command.branch, "confirm" if confirm else "cancel", command.attempt, command.participant
        )
        with self._tracing.call(path, TraceParent(command.traceparent, command.tracestate), tags) as span:
            sent = metadata.for_command(command, span.trace)
            try:
                await method(command.request, timeout=self._call_timeout, metadata=sent)
            except grpc.aio.AioRpcError as error:
                _read_failure(error, outcome)
                span.ended(error.code(), error.details() or "")
            else:
                outcome.kind = transaction_pb2.OUTCOME_KIND_DONE
                span.ended(grpc.StatusCode.OK)
            span.say("tcc.outcome", transaction_pb2.OutcomeKind.Name(outcome.kind).removeprefix("OUTCOME_KIND_"))
        return outcome


class _Line:
    """The commands of one participant: those that wait, by branch, and those that are being called."""

    def __init__(self, courier: DirectCourier, calls_in_flight: int) -> None:
        self._courier = courier
        self._bound = calls_in_flight
        self._waiting: dict[_Branch, Command] = {}
        self._called: dict[_Branch, asyncio.Task[None]] = {}

    def put(self, command: Command) -> None:
        branch = (command.namespace, command.gid, command.branch)
        if branch in self._called:
            return  # the call under way will bring an outcome, whatever its attempt
        self._waiting[branch] = command
        self._fill()

    async def close(self) -> None:
        self._waiting.clear()
        called = list(self._called.values())
        for task in called:
            task.cancel()
        await asyncio.gather(*called, return_exceptions=True)

    def _fill(self) -> None:
        while self._waiting and len(self._called) < self._bound:
            branch = next(iter(self._waiting))
            command = self._waiting.pop(branch)
            task = asyncio.create_task(self._carry(branch, command))
            self._called[branch] = task
            task.add_done_callback(partial(self._ended, branch))

    async def _carry(self, branch: _Branch, command: Command) -> None:
        outcome = await self._courier.call(command)
        # Before the outcome is told: whoever hears it may send the next attempt at once.
        self._called.pop(branch, None)
        self._courier.tell(outcome)

    def _ended(self, branch: _Branch, task: asyncio.Task[None]) -> None:
        if self._called.get(branch) is task:
            del self._called[branch]
        if not task.cancelled():
            task.result()  # carry does not raise; should it ever, the loop's exception handler says so
        self._fill()


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
    outcome.code = error.code().value[0]
    outcome.message = error.details() or ""
    hint = wire.retry_delay(details)
    if hint is not None:
        outcome.retry_after.CopyFrom(Duration(seconds=int(hint), nanos=int(hint % 1 * 1e9)))
