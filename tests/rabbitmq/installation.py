"""A real engine over RabbitMQ: its log is in memory and its Tries need no network, so that only the broker can fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import tcc
from services.accounts.v1.accounts_pb2_grpc import add_AccountsServicer_to_server
from tcc.amqp.consumer import CommandConsumer
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller.local import LocalCaller
from tcc_server.clock import RandomIds, SystemClock, SystemRng
from tcc_server.core.model import Ask, Key, State, Transaction
from tcc_server.core.policy import Policy
from tcc_server.courier.rabbitmq import RabbitCourier
from tcc_server.engine.engine import Engine, is_final
from tcc_server.engine.worker import Seams
from tcc_server.log.memory import MemoryLog
from tests.links.participant import HASH, METHODS, REQUEST, Told
from tests.rabbitmq.ends import QUICK

POLICY = Policy(answer_timeout=1.0, answer_timeout_max=2.0, backoff_max=0.5, record_after=0.2)
_PUBLISHES = 20
"""Messages a second that may leave beyond one for each command: repeats leave in lists."""


class Service:
    """A participant: what it is told to do, and how often it did it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told = Told()
        self.server = tcc.ParticipantServer("127.0.0.1:0", fence=tcc.MemoryFence(row_wait=0.2), name=name)
        add_AccountsServicer_to_server(self.told, self.server)

    async def handle(self, command: Command, timeout: float) -> Outcome:
        """As `ParticipantServer` does it."""
        return await self.server.runtime.command(command, timeout=timeout)

    def effects(self) -> Counter[str]:
        """How often each phase of each gid was carried out."""
        return Counter(self.told.runs)


class Installation:
    """An engine, and two services that consume.

    Attributes:
        taken: gids of all transactions that clients were answered.
    """

    def __init__(
        self, engine: Engine, courier: RabbitCourier, services: Mapping[str, Service], consumers: list[CommandConsumer]
    ) -> None:
        self.engine = engine
        self.courier = courier
        self.services = services
        self.consumers = consumers
        self.taken: list[str] = []
        self._began = asyncio.get_running_loop().time()
        self._count = 0
        self._took = asyncio.Event()

    async def transact(self, timeout: float = 20.0) -> str:
        """One transaction over both services, up to the answer that it is decided."""
        self._count += 1
        gid = f"t{self._count}"
        asks = tuple(Ask(str(step), name, METHODS, REQUEST, HASH) for step, name in enumerate(self.services))
        await self.engine.execute(Key("default", gid), "transfer", asks, timeout, ("", ""))
        self.taken.append(gid)
        self._took.set()
        return gid

    async def ended(self, gid: str) -> Transaction:
        """The transaction once it is final."""
        return await self.engine.wait(Key("default", gid), is_final)

    async def all_end_confirmed(self, seconds: float = 30.0) -> None:
        """Waits for the end of everything that has been taken: confirmed at every service, once, in no hot loop."""
        async with asyncio.timeout(seconds):
            taken = list(self.taken)
            ends = await asyncio.gather(*(self.ended(gid) for gid in taken))
        assert {end.state for end in ends} == {State.CONFIRMED}
        for service in self.services.values():
            effects = service.effects()
            assert {gid: effects[f"confirm {gid}"] for gid in taken} == dict.fromkeys(taken, 1)
            assert not [effect for effect in effects if effect.startswith("cancel")]
        self._no_hot_loop()

    def _no_hot_loop(self) -> None:
        """Nothing was published but what had to be: a command once, and again once an answer timeout at the most."""
        seconds = asyncio.get_running_loop().time() - self._began
        owed = len(self.services) * len(self.taken)
        assert self.courier.published <= owed + _PUBLISHES * seconds
        assert self.courier.commands_published <= owed * (1 + seconds / POLICY.answer_timeout)

    @asynccontextmanager
    async def traffic(self, clients: int = 8) -> AsyncIterator[None]:
        """Clients that go on with one transaction after the other."""

        async def client() -> None:
            while not stopping.is_set():
                await self.transact()
                await asyncio.sleep(0.01)  # so that a test of seconds does not make ten thousands

        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
            try:
                yield
            finally:
                stopping.set()

    async def until_taken(self, more: int, seconds: float = 20.0) -> None:
        """Waits until so many more transactions have been taken."""
        goal = len(self.taken) + more
        async with asyncio.timeout(seconds):
            while len(self.taken) < goal:
                self._took.clear()
                await self._took.wait()


@asynccontextmanager
async def installation(
    manager_url: str,
    *names: str,
    consumer_url: str | None = None,
    policy: Policy = POLICY,
    heartbeat: int = 10,
    publish_timeout: float = 5.0,
) -> AsyncIterator[Installation]:
    """An installation that runs.

    Args:
        manager_url: the broker as the manager sees it.
        names: the participants.
        consumer_url: the broker as the participants see it.
    """
    services = {name: Service(name) for name in names}
    courier = RabbitCourier(
        manager_url,
        replica="r",
        participants=services,
        answer_wait=policy.answer_wait,
        publish_timeout=publish_timeout,
        heartbeat=heartbeat,
        pauses=QUICK,
    )
    seams = Seams(
        log=MemoryLog(replica="r"),
        caller=LocalCaller({name: service.server.runtime for name, service in services.items()}),
        courier=courier,
        clock=SystemClock(),
        ids=RandomIds(),
        rng=SystemRng(),
    )
    engine = Engine(seams, replica="r", policy=policy)
    async with AsyncExitStack() as ends:
        consumers: list[CommandConsumer] = []
        for service in services.values():
            consuming = CommandConsumer(
                consumer_url or manager_url,
                service.name,
                service.handle,
                publish_timeout=1.0,
                renew_after=1.0,
                heartbeat=heartbeat,
                pauses=QUICK,
            )
            consuming.start()
            ends.push_async_callback(consuming.close)
            consumers.append(consuming)
        await seams.log.open()
        ends.push_async_callback(seams.log.close)
        await engine.start()
        ends.push_async_callback(engine.close)
        yield Installation(engine, courier, services, consumers)
