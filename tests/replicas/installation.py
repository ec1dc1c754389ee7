"""Managers that share a log, and banks that all of them reach."""

from __future__ import annotations

import asyncio
import random
import time

from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller.seam import TryCall, TryReply
from tcc_server.clock import RandomIds, SystemClock, SystemRng
from tcc_server.core.model import Ask, Key, Methods
from tcc_server.core.policy import Policy
from tcc_server.courier.memory import MemoryCourier
from tcc_server.engine.engine import Engine
from tcc_server.engine.worker import Seams
from tcc_server.log.memory import MemoryLog, MemoryStore
from tcc_server.log.postgres import PostgresLog
from tests.simulation.bank import Bank, Faults

KEY = Key("default", "g-1")
NO_TRACE = ("", "")


def ask(step: str, bank: str, amount: int = 10) -> Ask:
    """A branch: a positive amount is taken from the bank, a negative one is given."""
    return Ask(step, bank, Methods("/p.S/Try", "/p.S/Confirm", "/p.S/Cancel"), str(amount).encode(), b"hash", None)


PLAN = (ask("debit", "x"), ask("credit", "y", -10))


class Gate:
    """Something that waits to be let through, for a test."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.waiting = 0
        self._arrived = asyncio.Condition()

    def shut(self) -> None:
        """Whoever comes waits."""
        self._open.clear()

    def open(self) -> None:
        """All go on."""
        self._open.set()

    async def pass_through(self) -> None:
        """Wait until it is open."""
        async with self._arrived:
            self.waiting += 1
            self._arrived.notify_all()
        await self._open.wait()

    async def until_waiting(self, count: int = 1) -> None:
        """Wait until so many came."""
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: self.waiting >= count)


class Replica:
    """One manager.

    Attributes:
        tries: the attempts that it made, by step.
        commands: those that it sent, as (step, phase).
        gate: its Tries wait here on their way.
    """

    def __init__(self, name: str, log: MemoryLog | PostgresLog, banks: dict[str, Bank]) -> None:
        self.name = name
        self.log = log
        self.tries: list[str] = []
        self.commands: list[tuple[str, int]] = []
        self.gate = Gate()
        self._banks = banks
        courier = MemoryCourier(dict.fromkeys(banks, self._carry))
        seams = Seams(log, self, courier, SystemClock(), RandomIds(), SystemRng())
        self.engine = Engine(seams, replica=name, policy=Policy(record_after=0.0))

    async def call(self, call: TryCall) -> TryReply:
        """A Try on its way to a bank."""
        self.tries.append(call.ask.step)
        await self.gate.pass_through()
        return await self._banks[call.ask.participant].attempt(call)

    async def _carry(self, command: Command) -> Outcome:
        self.commands.append((command.branch, command.phase))
        return await self._banks[command.participant].command(command)


class Installation:
    """Replicas on one log: in memory, or in PostgreSQL where a URL is given."""

    def __init__(self, url: str | None, lease_ttl: float = 15.0) -> None:
        rng = random.Random(1)  # noqa: S311  chance is not wanted here
        faults = Faults()
        faults.healed = True
        self.banks = {name: Bank(name, rng, faults, time.time) for name in ("x", "y")}
        self._url = url
        self._lease_ttl = lease_ttl
        self._store = MemoryStore()
        self._replicas: list[Replica] = []

    async def start(self, name: str) -> Replica:
        """One more manager."""
        log: MemoryLog | PostgresLog
        if self._url is None:
            log = MemoryLog(self._store, replica=name)
        else:
            log = PostgresLog(self._url, replica=name, lease_ttl=self._lease_ttl, auto_migrate=True)
        replica = Replica(name, log, self.banks)
        self._replicas.append(replica)
        await log.open()
        await replica.engine.start()
        return replica

    async def pause(self, replica: Replica) -> None:
        """What a pause longer than its lease does to a replica: others count it as dead, and it finds out later."""
        if isinstance(replica.log, MemoryLog):
            self._store.expire(replica.name)
            return
        keeping = replica.log._lease._keeping
        assert keeping is not None
        keeping.cancel()
        await asyncio.wait({keeping})

    async def owner(self) -> str:
        """Whose transaction it is."""
        return (await self._replicas[-1].log.load([KEY]))[KEY].owner

    def effects(self) -> dict[tuple[str, str], int]:
        """How often each phase of each step happened."""
        return {
            (step, phase): times for bank in self.banks.values() for (_, step, phase), times in bank.effects.items()
        }

    async def close(self) -> None:
        """End all."""
        for replica in self._replicas:
            replica.gate.open()
            await replica.engine.abandon()
            await replica.log.close()
