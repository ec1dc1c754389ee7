"""The proof: what must hold after the story, checked on the facts alone.

The law: nothing is taken on trust. What the clients were told, what the manager says, what the banks say and what lies
in their databases come from four places, and must agree. That something was really killed at the right moment is
checked like all else: a run in which nothing went wrong proves nothing.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import tcc
from services.demo._banks import Books
from services.demo._transfers import Told, Transfer


@dataclass(frozen=True, slots=True)
class BankKill:
    """A bank was killed between its Try and its Confirm of one transfer.

    Attributes:
        gid: the transfer.
        bank: who was killed.
        exit_code: of the killed process.
        fence: what the bank's own database held for the transfer when it was dead.
        decision: of the transfer, while the bank was dead.
        settled: the bank had carried out the decision before it was started again.
    """

    gid: str
    bank: str
    exit_code: int
    fence: str
    decision: tcc.Decision | None
    settled: bool


@dataclass(frozen=True, slots=True)
class ManagerKill:
    """The manager was killed with transfers under way.

    Attributes:
        open_gids: transfers that were in its log and undecided just before, and whose clients were waiting.
        answered: those of them whose clients had been told something when it was dead.
        exit_code: of the killed process.
    """

    open_gids: tuple[str, ...]
    answered: tuple[str, ...]
    exit_code: int


@dataclass(frozen=True, slots=True)
class Found:
    """A transfer as the manager shows it at the end."""

    state: tcc.State
    decision: tcc.Decision | None
    attention: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was seen.

    Attributes:
        transfers: all that were asked for.
        told: what each client was told, by gid.
        found: each transfer in the end, by gid.
        left_open: gids that the manager lists as unfinished in the end.
        before: the banks' books before the first transfer, by bank.
        after: and in the end.
        bank_kill: how a bank was killed.
        manager_kill: how the manager was killed.
    """

    transfers: tuple[Transfer, ...]
    told: Mapping[str, Told]
    found: Mapping[str, Found]
    left_open: tuple[str, ...]
    before: Mapping[str, Books]
    after: Mapping[str, Books]
    bank_kill: BankKill
    manager_kill: ManagerKill


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold.

    Attributes:
        claim: what.
        seen: what shows that it holds.
        broken: what shows that it does not; nothing where it holds.
    """

    claim: str
    seen: str
    broken: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """It does."""
        return not self.broken


def prove(facts: Facts) -> list[Check]:
    """All checks; the demo succeeds if each of them holds."""
    before, after = _money(facts.before), _money(facts.after)
    codes = Counter(transfer.refused_with for transfer in facts.transfers)
    refused = ", ".join(f"{count} {code}" for code, count in codes.items() if code)
    kill, manager_kill = facts.bank_kill, facts.manager_kill
    checks = [
        ("no money was lost or made", f"{cents(before)} before, {cents(after)} after", _sums(facts)),
        ("every account has what its transfers say", f"{_accounts(facts)} accounts", _balances(facts)),
        ("nothing is left reserved", "in the accounts and in the fences", _reserved(facts)),
        ("no transaction is open or needs a person", f"{len(facts.found)} are final", _unfinished(facts)),
        ("every client was told what was decided", f"{len(facts.told)} answers", _answers(facts)),
        ("every transfer that could be made was made", f"{codes['']} transfers", _made(facts)),
        ("every other was refused, and its client told why", refused, _refused(facts)),
        ("a bank was killed between Try and Confirm", f"{kill.bank}, {kill.gid}", _bank_kill(facts)),
        (
            "the manager was killed with work under way",
            f"{len(manager_kill.open_gids)} transfers",
            _manager_kill(facts),
        ),
    ]
    return [Check(claim, seen, tuple(broken)) for claim, seen, broken in checks]


def cents(amount: int) -> str:
    """An amount for people: 123456 is 1,234.56."""
    return f"{amount / 100:,.2f}"


def _money(books: Mapping[str, Books]) -> int:
    return sum(book.money for book in books.values())


def _accounts(facts: Facts) -> int:
    return sum(len(book.balances) for book in facts.after.values())


def _sums(facts: Facts) -> Iterator[str]:
    before, after = _money(facts.before), _money(facts.after)
    if before <= 0:
        yield "there was no money before the first transfer"
    if after != before:
        yield f"{cents(abs(after - before))} were {'lost' if after < before else 'made'}"


def _balances(facts: Facts) -> Iterator[str]:
    expected = {bank: dict(books.balances) for bank, books in facts.before.items()}
    for transfer in facts.transfers:
        told = facts.told.get(transfer.gid)
        if told is not None and told.decision is tcc.Decision.CONFIRM:
            expected[transfer.source][transfer.payer] -= transfer.amount
            expected[transfer.target][transfer.payee] += transfer.amount
    for bank, accounts in expected.items():
        for account, amount in accounts.items():
            has = facts.after[bank].balances[account]
            if has != amount:
                yield f"{account} at {bank} has {cents(has)} and should have {cents(amount)}"


def _reserved(facts: Facts) -> Iterator[str]:
    for bank, books in facts.after.items():
        if books.reserved:
            yield f"{bank} keeps {cents(books.reserved)} aside"
        if books.tried:
            yield f"the fence of {bank} holds {books.tried} reservations"


def _unfinished(facts: Facts) -> Iterator[str]:
    for gid in facts.left_open:
        yield f"{gid} is open"
    for gid, found in facts.found.items():
        if not found.state.is_final or found.attention:
            yield f"{gid} is {found.state}{' and needs attention' if found.attention else ''}"


def _answers(facts: Facts) -> Iterator[str]:
    ends = {tcc.Decision.CONFIRM: tcc.State.CONFIRMED, tcc.Decision.CANCEL: tcc.State.CANCELLED}
    for transfer in facts.transfers:
        told, found = facts.told.get(transfer.gid), facts.found.get(transfer.gid)
        if told is None or told.decision is None:
            yield f"the client of {transfer.gid} got no answer{f': {told.text}' if told else ''}"
        elif found is None:
            yield f"the manager does not know {transfer.gid}"
        elif (found.decision, found.state) != (told.decision, ends[told.decision]):
            yield f"the client of {transfer.gid} was told {told.decision}, the manager says {found.state}"


def _made(facts: Facts) -> Iterator[str]:
    for transfer in facts.transfers:
        told = facts.told.get(transfer.gid)
        if not transfer.refused_with and (told is None or told.decision is not tcc.Decision.CONFIRM):
            yield f"{transfer.gid} did not go through{f': {told.code} {told.text}' if told else ''}"


def _refused(facts: Facts) -> Iterator[str]:
    bound_to_fail = [transfer for transfer in facts.transfers if transfer.refused_with]
    if not bound_to_fail:
        yield "no transfer was bound to be refused"
    for transfer in bound_to_fail:
        told = facts.told.get(transfer.gid, Told(None))
        if (told.decision, told.code) != (tcc.Decision.CANCEL, transfer.refused_with) or not told.text:
            heard = f"{told.decision} {told.code} {told.text!r}"
            yield f"{transfer.gid} should be refused with {transfer.refused_with}; its client was told {heard}"


def _bank_kill(facts: Facts) -> Iterator[str]:
    kill = facts.bank_kill
    if kill.exit_code != -signal.SIGKILL:
        yield f"{kill.bank} ended with {kill.exit_code}, not by SIGKILL"
    if kill.fence != "TRIED":
        yield f"{kill.bank} held {kill.fence or 'nothing'} for {kill.gid} when it was dead, not TRIED"
    if kill.decision is not tcc.Decision.CONFIRM:
        yield f"{kill.gid} was not confirmed while {kill.bank} was dead"
    if kill.settled:
        yield f"{kill.bank} had carried out {kill.gid} before it was started again"
    if kill.gid not in facts.found or facts.found[kill.gid].state is not tcc.State.CONFIRMED:
        yield f"{kill.gid} is not confirmed in the end"


def _manager_kill(facts: Facts) -> Iterator[str]:
    kill = facts.manager_kill
    if kill.exit_code != -signal.SIGKILL:
        yield f"it ended with {kill.exit_code}, not by SIGKILL"
    if len(kill.open_gids) < 2:
        yield f"only {len(kill.open_gids)} transfers were undecided when it was killed"
    for gid in kill.answered:
        yield f"the client of {gid} had its answer before"
