"""A whole installation in one seeded loop: clients, a manager that is killed, banks, faulty links, a faulty log.

`simulate(seed)` runs it and gives back everything that the checker looks at. After the faults are healed it waits until
every transaction has ended, or until it is plain that one will not.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace

from tcc.v1.participant_pb2 import Command
from tcc_server.core.model import Ask, Decision, Key, Methods, Moment, Reservation, Transaction
from tcc_server.core.policy import Policy
from tcc_server.engine.engine import Engine
from tcc_server.engine.errors import EngineError
from tcc_server.engine.worker import Seams
from tcc_server.log.codec import decode
from tcc_server.log.memory import MemoryLog, MemoryStore
from tcc_server.log.seam import LogUnavailable, LogUnknown, Row
from tests.simulation.bank import Bank, Faults, FaultyCaller, FaultyCourier
from tests.simulation.loop import SeededLoop

WALL = 1_800_000_000.0
METHODS = Methods("/p.S/Try", "/p.S/Confirm", "/p.S/Cancel")


class LoopClock:
    """The loop's time on both clocks."""

    def now(self) -> Moment:
        """This moment."""
        now = asyncio.get_running_loop().time()
        return Moment(now, WALL + now)


class SeededIds:
    """Ids from the seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def write_id(self) -> bytes:
        """16 bytes."""
        return self._rng.randbytes(16)

    def replica_id(self) -> str:
        """An id."""
        return self._rng.randbytes(4).hex()


class SeededRng:
    """Dice from the seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return self._rng.random()


class FaultyLog(MemoryLog):
    """A log whose appends are slow, and whose answers get lost before or after the write."""

    def __init__(self, store: MemoryStore, replica: str, rng: random.Random, faults: Faults, rows: list[Row]) -> None:
        super().__init__(store, replica=replica)
        self._rng, self._faults, self._written = rng, faults, rows

    async def append(self, row: Row) -> None:
        """Append, perhaps."""
        await asyncio.sleep(self._rng.random() * 0.02)
        if self._faults.strikes(0.05, self._rng):
            raise LogUnknown("the answer was lost, and so was the row")
        await super().append(row)
        self._written.append(replace(self.store.rows[row.key]))
        if self._faults.strikes(0.05, self._rng):
            raise LogUnknown("the answer was lost")

    async def load(self, keys):  # type: ignore[no-untyped-def]  # the signature is the log's own
        """Load, perhaps."""
        if self._faults.strikes(0.1, self._rng):
            raise LogUnavailable("no answer")
        return await super().load(keys)


@dataclass
class Told:
    """What a client heard of its transaction."""

    decisions: list[Decision] = field(default_factory=list)
    acknowledged: bool = False


@dataclass
class World:
    """Everything that happened."""

    banks: dict[str, Bank]
    store: MemoryStore = field(default_factory=MemoryStore)
    rows: list[Row] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    told: dict[str, Told] = field(default_factory=dict)
    kills: int = 0
    unknown: int = 0
    stuck: list[str] = field(default_factory=list)
    end: float = 0.0

    def final(self) -> dict[str, Transaction]:
        """What the log says at the end."""
        at = Moment(self.end, WALL + self.end)
        return {key.gid: decode(row, at) for key, row in self.store.rows.items()}


class Manager:
    """One manager after the other on one store: `kill` is a SIGKILL, `start` the next process."""

    def __init__(self, world: World, rng: random.Random, faults: Faults) -> None:
        self._world, self._rng, self._faults = world, rng, faults
        self.engine: Engine | None = None
        self._log: FaultyLog | None = None
        self._courier: FaultyCourier | None = None
        self._count = 0

    def is_running(self) -> bool:
        """Whether there is a process."""
        return self.engine is not None

    async def start(self) -> None:
        """The next process."""
        self._count += 1
        replica = f"r{self._count}"
        self._log = FaultyLog(self._world.store, replica, self._rng, self._faults, self._world.rows)
        self._courier = FaultyCourier(self._world.banks, self._rng, self._faults, self._world.commands)
        seams = Seams(
            log=self._log,
            caller=FaultyCaller(self._world.banks, self._rng, self._faults),
            courier=self._courier,
            clock=LoopClock(),
            ids=SeededIds(self._rng),
            rng=SeededRng(self._rng),
        )
        engine = Engine(seams, replica=replica, policy=Policy(attention_age=60))
        await self._log.open()
        await engine.start()
        self.engine = engine

    async def kill(self) -> None:
        """Everything in memory is gone at once; what the log has, it has."""
        engine, self.engine = self.engine, None
        if engine is None or self._log is None or self._courier is None:
            return
        self._world.kills += 1
        await self._courier.close()
        dying = engine._worker
        dying._timers.close()
        for live in dying:
            live.drop_tries()
        dying._appends.drop()
        for tasks in (dying._tasks, dying._settling):
            await tasks.close()
        await engine.close()
        await self._log.close()


async def simulate(loop: SeededLoop, *, transactions: int = 12, kills: int = 2) -> World:
    """Run it."""
    rng = loop.random
    faults = Faults(
        lose_request=rng.choice((0.0, 0.1, 0.3)),
        lose_reply=rng.choice((0.0, 0.1, 0.3)),
        double=rng.choice((0.0, 0.3)),
        overloaded=rng.choice((0.0, 0.1)),
        handler_fails=rng.choice((0.0, 0.2)),
    )
    names = ("x", "y", "z")
    world = World({})
    world.banks.update({name: Bank(name, rng, faults, lambda: WALL + loop.time()) for name in names})
    manager = Manager(world, rng, faults)
    await manager.start()
    async with asyncio.TaskGroup() as group:
        for number in range(transactions):
            client = _plan_client if rng.random() < 0.6 else _interactive_client
            group.create_task(client(world, manager, rng, f"g{number}", rng.random() * 5))
        for _ in range(kills):
            group.create_task(_killer(manager, rng))
    faults.healed = True
    if manager.engine is None:
        await manager.start()
    await _settle(world, loop)
    world.end = loop.time()
    await manager.kill()
    return world


async def _killer(manager: Manager, rng: random.Random) -> None:
    await asyncio.sleep(rng.random() * 8)
    if manager.is_running():
        await manager.kill()
        await asyncio.sleep(rng.random() * 3)
        if not manager.is_running():
            await manager.start()


async def _settle(world: World, loop: SeededLoop) -> None:
    limit = loop.time() + 400
    while loop.time() < limit:
        open_ones = [key.gid for key, row in world.store.rows.items() if not row.state.is_final]
        if not open_ones:
            await asyncio.sleep(10)  # late messages still arrive, and must change nothing
            return
        await asyncio.sleep(1)
    world.stuck = open_ones


def _reservation(tx: Transaction, step: str) -> Reservation:
    position = tx.find(step)
    assert position is not None
    return tx.branches[position].reservation


def _ask(rng: random.Random, step: str, amount: int, bank: str) -> Ask:
    request = str(amount).encode()
    timeout = rng.choice((None, None, 2.0))
    return Ask(step, bank, METHODS, request, request, timeout)


async def _plan_client(world: World, manager: Manager, rng: random.Random, gid: str, delay: float) -> None:
    await asyncio.sleep(delay)
    told = world.told[gid] = Told()
    amount = rng.choice((1, 10, 300, 900))
    source, target = rng.sample(sorted(world.banks), 2)
    asks = (_ask(rng, "debit", amount, source), _ask(rng, "credit", -amount, target))
    for _ in range(rng.choice((1, 3, 6))):
        engine = manager.engine
        if engine is None:
            await asyncio.sleep(0.5)
            continue
        try:
            async with asyncio.timeout(rng.choice((0.3, 5.0, 40.0))):
                tx = await engine.execute(Key("default", gid), "", asks, 10.0, ("", ""))
        except (TimeoutError, EngineError):
            world.unknown += 1
            continue
        assert tx.decision is not None
        told.acknowledged = True
        told.decisions.append(tx.decision)


async def _interactive_client(world: World, manager: Manager, rng: random.Random, gid: str, delay: float) -> None:
    await asyncio.sleep(delay)
    told = world.told[gid] = Told()
    key = Key("default", gid)
    amount = rng.choice((1, 10, 300, 900))
    source, target = rng.sample(sorted(world.banks), 2)
    try:
        engine = manager.engine
        if engine is None:
            return
        await engine.begin(key, "", 10.0, ("", ""))
        told.acknowledged = True
        for step, value, bank in (("debit", amount, source), ("credit", -amount, target)):
            engine = manager.engine
            if engine is None:
                return
            tx, _ = await engine.enlist(key, _ask(rng, step, value, bank))
            if rng.random() < 0.1:
                return  # the client is gone
            known = _reservation(tx, step)
            if known is Reservation.REFUSED or (known is not Reservation.RESERVED and rng.random() < 0.5):
                told.decisions.append((await engine.cancel(key, "refused")).decision or Decision.CONFIRM)
                return
        for _ in range(3):
            engine = manager.engine
            if engine is None:
                await asyncio.sleep(0.5)
                continue
            try:
                async with asyncio.timeout(rng.choice((0.3, 20.0))):
                    tx = await (engine.confirm(key) if rng.random() < 0.8 else engine.cancel(key, "why not"))
            except TimeoutError:
                world.unknown += 1
                continue
            assert tx.decision is not None
            told.decisions.append(tx.decision)
    except EngineError:
        world.unknown += 1
