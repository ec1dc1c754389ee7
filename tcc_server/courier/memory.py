"""The courier without a network: carries commands to participants that live in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.courier.seam import OutcomeSink

CommandHandler = Callable[[Command], Awaitable[Outcome]]
"""Carries one command out; never raises."""


_Branch = tuple[str, str, str]


class MemoryCourier:
    """Carries commands by name.

    Args:
        participants: name to what carries its commands out. A command to any other name is lost.
    """

    def __init__(self, participants: Mapping[str, CommandHandler]) -> None:
        self._participants = participants
        self._sink: OutcomeSink | None = None
        self._carrying: dict[_Branch, asyncio.Task[None]] = {}

    async def start(self, sink: OutcomeSink) -> None:
        """Begin to work; outcomes go to `sink`."""
        self._sink = sink

    def send(self, commands: Sequence[Command]) -> None:
        """Carry each command, unless its branch is being carried."""
        for command in commands:
            handler = self._participants.get(command.participant)
            branch = (command.namespace, command.gid, command.branch)
            if handler is None or branch in self._carrying or self._sink is None:
                continue
            task = asyncio.get_running_loop().create_task(self._carry(handler, command))
            self._carrying[branch] = task
            task.add_done_callback(partial(self._ended, branch))

    async def close(self) -> None:
        """Stop what is under way."""
        self._sink = None
        carrying = list(self._carrying.values())
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)

    def _ended(self, branch: _Branch, task: asyncio.Task[None]) -> None:
        if self._carrying.get(branch) is task:
            del self._carrying[branch]

    async def _carry(self, handler: CommandHandler, command: Command) -> None:
        outcome = await handler(command)
        # Before the outcome is told: whoever hears it may send the next attempt at once.
        self._carrying.pop((command.namespace, command.gid, command.branch), None)
        if self._sink is not None:
            self._sink(outcome)
