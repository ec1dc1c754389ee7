"""What is measured: the workloads W1 to W9, as data.

Where not said otherwise a transaction is a plan of two branches, a debit and a credit, whose handlers do nothing; the
client's answer is the decision. W2's stack: commands through RabbitMQ, locks in Redis, log and fences in SQLite with
synchronous=FULL. W4 to W9 run on it too, except W4, whose balances are real: on W3's.

The handlers that do nothing have one participant process, which both branches are at, as in the other systems' figures
that docs/performance.md compares with; `--participants 2` gives each branch its own. The banks of W3 and W4 are two.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from enum import Enum


class Store(Enum):
    """Where a log or a fence keeps its rows."""

    MEMORY = "memory"
    SQLITE = "sqlite"
    POSTGRES = "postgres"


@dataclass(frozen=True, slots=True)
class Participant:
    """One participant process.

    Attributes:
        bank: real balances (services.accounts); else handlers that do nothing.
        wait_ms: how long each handler takes, beside its work.
        away: it answers Tries, and never sees a command.
        beside: only what goes on beside the measured load asks it.
    """

    name: str
    fence: Store
    bank: bool = False
    wait_ms: int = 0
    away: bool = False
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What the client asks for.

    Attributes:
        participants: that the branches go to, in turn.
        accounts: how many there are at each. Many, so that what is measured is not clients that wait for one row.
        refused_of_ten: of ten transactions, so many have a last branch that its participant refuses.
        interactive: a call a branch, then confirm; else a plan.
        name: of the transactions.
    """

    participants: tuple[str, ...]
    branches: int = 2
    accounts: int = 64
    refused_of_ten: int = 0
    interactive: bool = False
    name: str = "transfer"

    def to_json(self) -> str:
        """For the client's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Asked:
        """From there."""
        said = json.loads(text)
        return cls(**{**said, "participants": tuple(said["participants"])})


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload.

    Attributes:
        log: the manager's.
        broker: commands go through RabbitMQ, and locks are in Redis; else commands are gRPC calls, without locks.
        beside: what another client asks for meanwhile, 64 at once; nothing of it is counted as a transaction.
    """

    name: str
    title: str
    log: Store
    broker: bool
    participants: tuple[Participant, ...]
    asked: Asked = field(default_factory=lambda: Asked(()))
    beside: Asked | None = None

    @property
    def postgres(self) -> bool:
        """Whether it needs PostgreSQL."""
        return Store.POSTGRES in {self.log, *(participant.fence for participant in self.participants)}

    @property
    def bank(self) -> bool:
        """Whether money moves."""
        return any(participant.bank for participant in self.participants)

    def asks(self) -> Asked:
        """What the client asks for, with the participants' names."""
        names = tuple(one.name for one in self.participants if not (one.away or one.beside))
        return replace(self.asked, participants=names)

    def spread(self, participants: int) -> Workload:
        """The same with that many participants that do nothing, where it has one."""
        if participants == 1 or len(self.participants) > 1:
            return self
        (only,) = self.participants
        several = tuple(replace(only, name=f"{only.name}-{number}") for number in range(1, participants + 1))
        return replace(self, participants=several)


_BANKS = (Participant("bank-a", Store.POSTGRES, bank=True), Participant("bank-b", Store.POSTGRES, bank=True))
_NOOP = Participant("noop", Store.SQLITE)


_HUNG = Participant("hung", Store.MEMORY, wait_ms=3_600_000, beside=True)


def _full(
    name: str, title: str, *participants: Participant, asked: Asked | None = None, beside: Asked | None = None
) -> Workload:
    """On W2's stack."""
    return Workload(name, title, Store.SQLITE, True, participants or (_NOOP,), asked or Asked(()), beside)


def _bank(name: str, title: str, asked: Asked | None = None) -> Workload:
    """On W3's stack."""
    return Workload(name, title, Store.POSTGRES, True, _BANKS, asked or Asked(()))


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("W1", "coordination", Store.SQLITE, False, (Participant("noop", Store.MEMORY),)),
        _full("W2", "full stack"),
        _bank("W3", "bank"),
        _bank("W4", "one hot account", Asked((), accounts=1)),
        _full("W5", "ten branches", asked=Asked((), branches=10)),
        _full("W6", "30 % refused", asked=Asked((), refused_of_ten=3)),
        # Its fence is in memory: a handler that waits inside SQLite's one writer holds up all others of its database.
        _full("W7", "one participant takes 50 ms", _NOOP, Participant("slow", Store.MEMORY, wait_ms=50)),
        _full("W8", "interactive, two Tries", asked=Asked((), interactive=True)),
        _full("W9", "W2 beside a participant that hangs", _NOOP, _HUNG, beside=Asked((_HUNG.name,), name="hung")),
    )
}
