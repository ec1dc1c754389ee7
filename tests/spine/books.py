"""What is in the databases, and what must be: the checks of the whole, named as the promises' list names them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tcc import Decision, State, TransactionView


@dataclass(frozen=True)
class Books:
    """A bank's database at one moment.

    Attributes:
        accounts: available and reserved, by account.
        fence: states, by gid and step.
    """

    accounts: dict[str, tuple[int, int]]
    fence: dict[tuple[str, str], str]

    @property
    def total(self) -> int:
        """All the money."""
        return sum(available + reserved for available, reserved in self.accounts.values())


def read_books(database: Path) -> Books:
    """The books as they are committed now."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as connection, connection:
        connection.execute("BEGIN")  # both tables at the same moment
        accounts = {
            account: (available, reserved)
            for account, available, reserved in connection.execute("SELECT account, available, reserved FROM accounts")
        }
        fence = {
            (gid, branch): state
            for gid, branch, state in connection.execute("SELECT gid, branch, state FROM tcc_fence")
        }
    return Books(accounts, fence)


# An interactive transaction may go on without a branch that refused; S3 watches over plans.
_ALLOWED = {State.CONFIRMED: {"CONFIRMED", "REFUSED"}, State.CANCELLED: {"CANCELLED", "REFUSED"}}


def violations(books: Iterable[Books], transactions: Sequence[TransactionView], opened_with: int) -> list[str]:
    """Every broken promise, in words; to be asked once all transactions have ended."""
    books = list(books)
    known = {tx.gid: tx for tx in transactions}
    found = [f"L1: {tx.gid} did not end, it is {tx.state}" for tx in transactions if not tx.state.is_final]
    for tx in transactions:
        found += [
            f"S3: {tx.gid} was confirmed over step {branch.step}: {branch.try_result}"
            for branch in tx.branches
            if tx.decision is Decision.CONFIRM and branch.try_result not in ("RESERVED", "REFUSED")
        ]
    for book in books:
        for (gid, step), state in book.fence.items():
            if gid not in known:
                found.append(f"S10: {gid} has a fence row ({state}) and is not in the log")
            elif state == "TRIED":
                found.append(f"S9: {gid}/{step} is still reserved, and the transaction is {known[gid].state}")
            elif known[gid].state in _ALLOWED and state not in _ALLOWED[known[gid].state]:
                found.append(f"S1: {gid}/{step} is {state}, and the transaction is {known[gid].state}")
        for account, (available, reserved) in book.accounts.items():
            if available < 0 or reserved != 0:
                found.append(f"S6: {account} has {available} available and {reserved} reserved")
    total = sum(book.total for book in books)
    if total != opened_with:
        found.append(f"S6: there are {total} cents in all, and there were {opened_with}")
    return found
