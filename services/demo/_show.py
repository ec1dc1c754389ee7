"""What the demo prints: live progress on a terminal, plain lines elsewhere; then outcomes and the proof as tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import tcc
from services.demo._proof import Check, Facts, cents
from services.demo._transfers import Told, Transfer

_WIDTH_IN_PIPES = 120
_STYLES = {tcc.Decision.CONFIRM: "green", tcc.Decision.CANCEL: "yellow", None: "red"}
_WORDS = {tcc.Decision.CONFIRM: "confirmed", tcc.Decision.CANCEL: "cancelled", None: "no answer"}


class Show:
    """Where the story is told.

    Args:
        what: the clients ask for, in one word or more.
        total: how many they ask for.
        quiet: tell nothing; for a demo whose result is printed as JSON.
    """

    def __init__(self, what: str, total: int, quiet: bool = False) -> None:
        self._what = what
        self._total = total
        fixed = not sys.stdout.isatty() and "COLUMNS" not in os.environ
        self.console = Console(highlight=False, quiet=quiet, width=_WIDTH_IN_PIPES if fixed else None)
        self._progress = Progress(
            TextColumn(f"  {what}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self._told: list[Told] = []
        self._task = self._progress.add_task("", total=total)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Shows the progress, as long as the block lasts."""
        with self._progress:
            yield

    def say(self, text: str) -> None:
        """One step of the story."""
        self.console.print(Text(f"* {text}"), soft_wrap=True)

    def answered(self, told: Told) -> None:
        """A client has its answer."""
        self._told.append(told)
        counts = {decision: sum(one.decision is decision for one in self._told) for decision in _WORDS}
        words = ", ".join(f"{count} {_WORDS[decision]}" for decision, count in counts.items() if count)
        self._progress.update(self._task, completed=len(self._told), description=words)
        if not self.console.is_terminal and (len(self._told) % 10 == 0 or len(self._told) == self._total):
            self.console.print(f"  {len(self._told)} of {self._total} {self._what} answered: {words}")

    def outcomes(self, facts: Facts) -> None:
        """A table of what was asked for."""
        table = Table(
            title=self._what.capitalize(), title_justify="left", box=None, pad_edge=False, header_style="bold"
        )
        for name in ("gid", "from", "to"):
            table.add_column(name, no_wrap=True)
        table.add_column("amount", justify="right", no_wrap=True)
        for name in ("told", "manager"):
            table.add_column(name, no_wrap=True)
        table.add_column("what happened")
        for transfer in facts.transfers:
            told = facts.told.get(transfer.gid, Told(None))
            found = facts.found.get(transfer.gid)
            table.add_row(
                transfer.gid,
                f"{transfer.source} {transfer.payer}",
                f"{transfer.target} {transfer.payee}",
                cents(transfer.amount),
                Text(_WORDS[told.decision], style=_STYLES[told.decision]),
                found.state if found else "unknown",
                Text(_happened(facts, transfer, told), style="dim"),
            )
        self.console.print()
        self.console.print(table)

    def proof(self, checks: Iterable[Check]) -> None:
        """A table of what holds and what doesn't."""
        table = Table(title="Proof", title_justify="left", box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        table.add_column(overflow="fold")
        for check in checks:
            verdict = Text("holds", style="green") if check.holds else Text("BROKEN", style="bold red")
            table.add_row(verdict, check.claim, Text("\n".join(check.broken) or check.seen))
        self.console.print()
        self.console.print(table)


def _happened(facts: Facts, transfer: Transfer, told: Told) -> str:
    if transfer.gid == facts.bank_kill.gid:
        return f"{facts.bank_kill.bank} killed between Try and Confirm"
    if transfer.gid in facts.manager_kill.open_gids:
        return "manager killed meanwhile"
    return told.text
