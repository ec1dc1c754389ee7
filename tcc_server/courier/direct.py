"""The courier of the embedded default: each command is a call of the participant's own Confirm or Cancel method.

Participants do not wait for each other: every one has its own line and its own bound of calls in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial

from tcc.tracing import Tracing
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller.channels import Channels
from tcc_server.caller.commands import CommandCaller
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
        self._calls = CommandCaller(channels, tracing)
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

    def call(self, command: Command) -> Awaitable[Outcome]:
        """Send the command; whatever happens is an outcome."""
        return self._calls.call(command, self._call_timeout)

    def tell(self, outcome: Outcome) -> None:
        """Give an outcome to the sink."""
        if self._sink is not None:
            self._sink(outcome)


class _Line:
    """The commands of one participant: those that wait, by branch, and those that are being called."""

    def __init__(self, courier: DirectCourier, calls_in_flight: int) -> None:
        self._courier = courier
        self._bound = calls_in_flight
        self._waiting: dict[_Branch, Command] = {}
        self._called: dict[_Branch, asyncio.Future[Outcome]] = {}

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
            call = asyncio.ensure_future(self._courier.call(command))
            self._called[branch] = call
            call.add_done_callback(partial(self._ended, branch))

    def _ended(self, branch: _Branch, call: asyncio.Future[Outcome]) -> None:
        # Before the outcome is told: whoever hears it may send the next attempt at once.
        if self._called.get(branch) is call:
            del self._called[branch]
        if self._waiting:
            self._fill()
        if not call.cancelled():
            # A call does not raise; should it ever, the loop's exception handler says so.
            self._courier.tell(call.result())
