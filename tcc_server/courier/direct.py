"""The courier of the embedded default: each command is a call of the participant's own Confirm or Cancel method.

Participants do not wait for each other: every one has its own line and its own bound of calls in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter

from tcc.tracing import Tracing
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller.channels import Channels
from tcc_server.caller.commands import CommandCaller
from tcc_server.caller.seam import Sent
from tcc_server.courier.seam import OutcomeSink

_Branch = tuple[str, str, str]
_branch: Callable[[Command], _Branch] = attrgetter("namespace", "gid", "branch")


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
                line = _Line(self._calls, self._call_timeout, self._calls_in_flight, self._tell)
                self._lines[command.participant] = line
            line.put(command)

    async def close(self) -> None:
        """Drop what waits and cancel what is under way."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.close()

    def _tell(self, outcome: Outcome) -> None:
        if self._sink is not None:
            self._sink(outcome)


class _Line:
    """The commands of one participant: those that wait, by branch, and those that are being called."""

    def __init__(self, calls: CommandCaller, timeout: float, calls_in_flight: int, tell: OutcomeSink) -> None:
        self._calls = calls
        self._timeout = timeout
        self._tell = tell
        self._bound = calls_in_flight
        self._waiting: dict[_Branch, Command] = {}
        self._called: dict[_Branch, Sent] = {}

    def put(self, command: Command) -> None:
        branch = _branch(command)
        if branch in self._called:
            return  # the call under way will bring an outcome, whatever its attempt
        if len(self._called) < self._bound and not self._waiting:
            self._call(branch, command)
        else:
            self._waiting[branch] = command

    async def close(self) -> None:
        self._waiting.clear()
        called, self._called = self._called, {}
        for call in called.values():
            call.cancel()
        tasks = [call for call in called.values() if isinstance(call, asyncio.Future)]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, branch: _Branch, command: Command) -> None:
        self._called[branch] = self._calls.send(command, self._timeout, partial(self._ended, branch))

    def _ended(self, branch: _Branch, outcome: Outcome) -> None:
        # Before the outcome is told: whoever hears it may send the next attempt at once.
        self._called.pop(branch, None)
        while self._waiting and len(self._called) < self._bound:
            longest = next(iter(self._waiting))
            self._call(longest, self._waiting.pop(longest))
        self._tell(outcome)
