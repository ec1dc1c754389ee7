"""A participant of the simulation: a bank behind a real fence, and the faulty links between it and the manager.

What it books is written down, so that the checker can count effects and not only trust balances.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from tcc.fence import MemoryFence, Phase, Record, Refusal, Visit
from tcc.fence._rules import Rule
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller.seam import TryCall, TryReply
from tcc_server.core.model import Key, Status

OPENING = 1000
FAILED_PRECONDITION, RESOURCE_EXHAUSTED, UNAVAILABLE, DEADLINE_EXCEEDED = 9, 8, 14, 4


@dataclass
class Faults:
    """How likely what goes wrong, between 0 and 1; `healed` stops all of it."""

    lose_request: float = 0.0
    lose_reply: float = 0.0
    double: float = 0.0
    overloaded: float = 0.0
    handler_fails: float = 0.0
    healed: bool = False

    def strikes(self, chance: float, rng: random.Random) -> bool:
        return not self.healed and rng.random() < chance


class Bank:
    """One account's money: available, and reserved by (gid, step)."""

    def __init__(self, name: str, rng: random.Random, faults: Faults, now: Callable[[], float]) -> None:
        self.name = name
        self.available = OPENING
        self.reserved: dict[tuple[str, str], int] = {}
        self.effects: Counter[tuple[str, str, str]] = Counter()
        self.cancel_answered: set[tuple[str, str]] = set()
        self.violations: list[str] = []
        self.fence = MemoryFence(clock=now)
        self._rng = rng
        self._faults = faults

    async def attempt(self, call: TryCall) -> TryReply:
        """The Try: takes what the request says from `available` (it may be negative: a credit)."""
        amount = int(call.ask.request)
        branch = (call.key.gid, call.ask.step)

        async def body(record: Record | None) -> bytes | Refusal:
            await self._think()
            if self.available < amount:
                return Refusal(grpc.StatusCode.FAILED_PRECONDITION, "insufficient funds")
            if branch in self.cancel_answered:
                self.violations.append(f"S8: {branch} was tried after its Cancel was answered")
            if amount > 0:
                self.available -= amount
            self.reserved[branch] = amount
            self._book(branch, "try")
            return b"reserved"

        verdict = await self.fence.visit(self._visit(call.key, call.ask.step, Phase.TRY, call.ask.request_hash), body)
        record = verdict.record
        if record is not None and record.refusal is not None:
            return TryReply(Status(FAILED_PRECONDITION, record.refusal.text), marked=True)
        if verdict.rule is Rule.LATE_TRY:
            return TryReply(Status(FAILED_PRECONDITION, "late"), marked=True)
        return TryReply(Status(), b"reserved")

    async def command(self, command: Command) -> Outcome:
        """Confirm or Cancel."""
        confirm = command.phase == transaction_pb2.PHASE_CONFIRM
        branch = (command.gid, command.branch)
        outcome = Outcome(
            namespace=command.namespace,
            gid=command.gid,
            branch=command.branch,
            phase=command.phase,
            attempt=command.attempt,
            kind=transaction_pb2.OUTCOME_KIND_DONE,
        )
        if self._faults.strikes(self._faults.handler_fails, self._rng):
            outcome.kind = transaction_pb2.OUTCOME_KIND_RETRY
            outcome.code, outcome.message = 13, "a handler's bug"
            return outcome

        async def body(record: Record | None) -> bytes:
            await self._think()
            amount = self.reserved.pop(branch)
            if (confirm and amount < 0) or (not confirm and amount > 0):
                self.available += abs(amount)
            self._book(branch, "confirm" if confirm else "cancel")
            return b""

        phase = Phase.CONFIRM if confirm else Phase.CANCEL
        verdict = await self.fence.visit(
            self._visit(Key(command.namespace, command.gid), command.branch, phase, command.request_hash), body
        )
        match verdict.rule:
            case Rule.NO_TRY:
                outcome.kind = transaction_pb2.OUTCOME_KIND_NO_TRY
            case Rule.CONTRADICTED:
                outcome.kind = transaction_pb2.OUTCOME_KIND_CONTRADICTED
        if not confirm and verdict.rule is not Rule.CONTRADICTED:
            self.cancel_answered.add(branch)
        return outcome

    def _book(self, branch: tuple[str, str], phase: str) -> None:
        self.effects[(*branch, phase)] += 1
        if self.available < 0:
            self.violations.append(f"S6: {self.name} has {self.available} available")

    def _visit(self, key: Key, step: str, phase: Phase, request_hash: bytes) -> Visit:
        return Visit(key.namespace, key.gid, step, phase, "/p.S/Try", request_hash)

    async def _think(self) -> None:
        if self._rng.random() < 0.3:
            await asyncio.sleep(self._rng.random() * 0.2)


class FaultyCaller:
    """A Caller whose requests and replies get lost, late and doubled."""

    def __init__(self, banks: dict[str, Bank], rng: random.Random, faults: Faults) -> None:
        self._banks, self._rng, self._faults = banks, rng, faults

    async def call(self, call: TryCall) -> TryReply:
        """Send the attempt, or lose it."""
        try:
            async with asyncio.timeout(call.timeout):
                await asyncio.sleep(self._rng.random() * 0.05)
                if self._faults.strikes(self._faults.lose_request, self._rng):
                    return TryReply(Status(UNAVAILABLE, "connection lost"))
                if self._faults.strikes(self._faults.overloaded, self._rng):
                    return TryReply(Status(RESOURCE_EXHAUSTED, "overloaded"))
                # The participant works on, whatever becomes of the caller.
                work = asyncio.get_running_loop().create_task(self._banks[call.ask.participant].attempt(call))
                reply = await asyncio.shield(work)
                if self._faults.strikes(self._faults.lose_reply, self._rng):
                    if self._rng.random() < 0.5:
                        await asyncio.sleep(60)
                    return TryReply(Status(UNAVAILABLE, "connection lost"))
                return reply
        except TimeoutError:
            return TryReply(Status(DEADLINE_EXCEEDED, "timed out"))


class FaultyCourier:
    """A Courier that loses, delays, doubles and reorders commands and outcomes."""

    def __init__(self, banks: dict[str, Bank], rng: random.Random, faults: Faults, sent: list[Command]) -> None:
        self._banks, self._rng, self._faults = banks, rng, faults
        self._sent = sent
        self._sink: Callable[[Outcome], None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, sink: Callable[[Outcome], None]) -> None:
        """Outcomes go to `sink`."""
        self._sink = sink

    def send(self, commands: Sequence[Command]) -> None:
        """Carry each command zero, one or two times, some time from now."""
        for command in commands:
            self._sent.append(command)
            for _ in range(1 + self._faults.strikes(self._faults.double, self._rng)):
                if not self._faults.strikes(self._faults.lose_request, self._rng):
                    task = asyncio.get_running_loop().create_task(self._carry(command))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Outcomes go nowhere; commands under way still arrive."""
        self._sink = None

    async def _carry(self, command: Command) -> None:
        await asyncio.sleep(self._rng.random() * self._rng.choice((0.05, 0.5, 5.0)))
        outcome = await self._banks[command.participant].command(command)
        await asyncio.sleep(self._rng.random() * 0.1)
        if self._sink is not None and not self._faults.strikes(self._faults.lose_reply, self._rng):
            self._sink(outcome)
