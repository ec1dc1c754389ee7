"""The courier without a network: carries commands to participants that live in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.courier.seam import OutcomeSink

CommandHandler = Callable[[Command], Awaitable[Outcome]]
"""Carries one command out; never raises."""


class MemoryCourier:
    """Carries commands by name.

    Args:
        participants: name to what carries its commands out. A command to any other name is lost.
    """

    def __init__(self, participants: Mapping[str, CommandHandler]) -> None:
        self._participants = participants
        self._sink: OutcomeSink | None = None
        self._carrying: dict[tuple[str, str, str], asyncio.Task[None]] = {}

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
            task.add_done_callback(partial(self._carried, branch))

    async def close(self) -> None:
        """Stop what is under way."""
        self._sink = None
        carrying = list(self._carrying.values())
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)

    def _carried(self, branch: tuple[str, str, str], task: asyncio.Task[None]) -> None:
        del self._carrying[branch]

    async def _carry(self, handler: CommandHandler, command: Command) -> None:
        outcome = await handler(command)
        if self._sink is not None:
            self._sink(outcome)
