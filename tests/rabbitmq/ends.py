"""Both ends of the queues, without an engine: a courier whose outcomes a test reads, and consumers that do as told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tcc.amqp.consumer import CommandConsumer, Handle
from tcc.amqp.link import Pauses
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.courier.rabbitmq import RabbitCourier

QUICK = Pauses(first=0.02, longest=0.2, lasting=0.3, steady=0.2)
"""As between attempts, for tests that do not wait for half a minute."""

DONE = transaction_pb2.OUTCOME_KIND_DONE
BUSY = transaction_pb2.OUTCOME_KIND_BUSY
RETRY = transaction_pb2.OUTCOME_KIND_RETRY
PATIENCE = 20.0


class Manager:
    """A courier, and what it brought back."""

    def __init__(self, courier: RabbitCourier) -> None:
        self.courier = courier
        self.outcomes: asyncio.Queue[Outcome] = asyncio.Queue()

    async def outcome(self, seconds: float = PATIENCE) -> Outcome:
        """The next outcome."""
        async with asyncio.timeout(seconds):
            return await self.outcomes.get()

    async def outcomes_of(self, gids: set[str], seconds: float = PATIENCE) -> Counter[str]:
        """Outcomes until each of these gids has one; how many of each came."""
        came: Counter[str] = Counter()
        async with asyncio.timeout(seconds):
            while not gids <= came.keys():
                came[(await self.outcomes.get()).gid] += 1
        return came


@asynccontextmanager
async def manager(url: str, *participants: str, **options: Any) -> AsyncIterator[Manager]:
    """A courier that is started."""
    given = {"replica": "r", "answer_wait": lambda _: 30.0, "pauses": QUICK, **options}
    made = Manager(RabbitCourier(url, participants=participants, **given))
    await made.courier.start(made.outcomes.put_nowait)
    try:
        yield made
    finally:
        await made.courier.close()


@asynccontextmanager
async def consumer(url: str, name: str, handle: Handle, **options: Any) -> AsyncIterator[CommandConsumer]:
    """A consumer that is started."""
    made = CommandConsumer(url, name, handle, **{"pauses": QUICK, **options})
    made.start()
    try:
        yield made
    finally:
        await made.close()


class Worker:
    """Carries commands out: each is done, unless a test holds it.

    Attributes:
        begun: gids, in the order in which their commands came.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._free = asyncio.Event()
        self._free.set()
        self._changed = asyncio.Event()

    def hold(self) -> None:
        """Commands do not end from now on."""
        self._free.clear()

    def release(self) -> None:
        """They end."""
        self._free.set()

    async def until_begun(self, count: int) -> None:
        """Waits until so many commands have been begun."""
        async with asyncio.timeout(PATIENCE):
            while len(self.begun) < count:
                self._changed.clear()
                await self._changed.wait()

    async def handle(self, command: Command, timeout: float) -> Outcome:
        """As a participant does it."""
        self.begun.append(command.gid)
        self._changed.set()
        await self._free.wait()
        self.ended.append(command.gid)
        return answer(command)


def command(gid: str, participant: str, *, attempt: int = 1, request: bytes = b"r") -> Command:
    """A Confirm."""
    return Command(
        namespace="default",
        gid=gid,
        branch="0",
        phase=transaction_pb2.PHASE_CONFIRM,
        attempt=attempt,
        participant=participant,
        request=request,
    )


def answer(command: Command) -> Outcome:
    """It is done."""
    return Outcome(
        namespace=command.namespace,
        gid=command.gid,
        branch=command.branch,
        phase=command.phase,
        attempt=command.attempt,
        kind=DONE,
    )


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """Waits for a condition that nothing announces."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.02)
