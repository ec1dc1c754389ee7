"""A transaction of the pure core, driven by hand: signals in, answers out, time as the test says."""

from __future__ import annotations

from copy import deepcopy

import grpc

from tcc_server.core.decide import begin, decide, next_wake
from tcc_server.core.evolve import evolve
from tcc_server.core.messages import (
    Answer,
    Circumstance,
    Effect,
    Event,
    OutcomeArrived,
    SendCommand,
    SendTry,
    Signal,
    TimerFired,
    TryAnswered,
)
from tcc_server.core.model import Ask, Decision, Key, Methods, Moment, OutcomeKind, Status, Transaction
from tcc_server.core.policy import Policy

WALL = 1_800_000_000.0


def ask(step: str, *, participant: str = "bank", try_timeout: float | None = None) -> Ask:
    """A branch of that step."""
    return Ask(step, participant, Methods("/p.S/Try", "/p.S/Confirm", "/p.S/Cancel"), b"r", b"h", try_timeout)


class Bench:
    """One transaction and everything that was said about it."""

    def __init__(
        self, *steps: str | Ask, interactive: bool = False, timeout: float = 30.0, policy: Policy | None = None
    ) -> None:
        self.policy = policy or Policy()
        self.mono = 100.0
        self.dice = 0.5
        self.wall_shift = 0.0
        self.events: list[Event] = []
        self.effects: list[Effect] = []
        self.writes = 0
        asks = tuple(ask(step) if isinstance(step, str) else step for step in steps)
        answer = begin(
            Key("default", "g"), "", None if interactive else asks, timeout, ("", ""), self.now(), self.policy
        )
        self.tx: Transaction = answer.after
        self._take(answer)

    def now(self) -> Circumstance:
        """This moment."""
        return Circumstance(Moment(self.mono, WALL + self.mono + self.wall_shift), self.dice, "r1")

    def signal(self, *signals: Signal) -> Answer:
        """Let the core answer; the events it gives must make the transaction that it says, and change no other."""
        before, kept = self.tx, deepcopy(self.tx)
        answer = decide(before, signals, self.now(), self.policy)
        replayed = before
        for event in answer.events:
            replayed = evolve(replayed, event)
        assert (replayed.state, replayed.branches) == (answer.after.state, answer.after.branches)
        assert before == kept
        assert answer.after.version == before.version + (answer.write > 0)
        self._take(answer)
        return answer

    def answer_try(
        self, step: str, code: str = "OK", *, marked: bool = False, retry_after: float | None = None, **more: float
    ) -> Answer:
        """The attempt in flight comes back."""
        return self.signal(self.tried(step, code, marked=marked, retry_after=retry_after, **more))

    def tried(
        self, step: str, code: str = "OK", *, marked: bool = False, retry_after: float | None = None, **more: float
    ) -> TryAnswered:
        """What says that the attempt in flight comes back."""
        branch = self.tx.branches[self._position(step)]
        status = Status(grpc.StatusCode[code].value[0], "" if code == "OK" else f"{step} says {code}")
        sent = Moment(self.mono, WALL + self.mono)
        return TryAnswered(
            step, branch.try_in_flight, status, marked, b"reply", more.get("expires_in"), retry_after, sent=sent
        )

    def outcome(
        self,
        step: str,
        kind: OutcomeKind = OutcomeKind.DONE,
        *,
        phase: Decision | None = None,
        unreachable: bool = False,
        **more: float,
    ) -> Answer:
        """An outcome comes, of the decision's phase unless said otherwise."""
        return self.signal(
            OutcomeArrived(
                step,
                phase or self.tx.decision or Decision.CONFIRM,
                kind,
                kind.name,
                more.get("retry_after"),
                unreachable,
            )
        )

    def pass_time(self, seconds: float) -> None:
        """Time passes, and every timer that becomes due fires."""
        end = self.mono + seconds
        while (wake := next_wake(self.tx, self.policy)) is not None and wake <= end:
            self.mono = max(self.mono, wake)
            self.signal(TimerFired())
        self.mono = end

    def tries(self) -> list[tuple[str, int]]:
        """Attempts that were sent, in order."""
        return [
            (self.tx.branches[effect.position].ask.step, effect.attempt)
            for effect in self.effects
            if isinstance(effect, SendTry)
        ]

    def commands(self) -> list[str]:
        """Steps of the commands that were sent, in order."""
        return [
            self.tx.branches[effect.position].ask.step for effect in self.effects if isinstance(effect, SendCommand)
        ]

    def _take(self, answer: Answer) -> None:
        self.tx = answer.after
        self.events += answer.events
        self.effects += answer.effects
        self.writes += answer.write > 0

    def _position(self, step: str) -> int:
        position = self.tx.find(step)
        assert position is not None
        return position
