"""Exit codes, which scripts build on: a number never changes its meaning."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the exit code of every `tcc` command says."""

    OK = 0
    """Done. `tcc tx watch`: the transaction ended CONFIRMED."""
    FAILED = 1
    """What was asked for failed."""
    USAGE = 2
    """The arguments or the configuration are wrong, or a package is missing."""
    NOT_FOUND = 3
    """There is no such transaction."""
    UNREACHABLE = 4
    """No manager answers at the address."""
    CANCELLED = 5
    """`tcc tx watch`: the transaction ended CANCELLED."""
    MIXED = 6
    """`tcc tx watch`: the transaction ended MIXED: a participant broke its promise, a person must look."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C."""


IN_WORDS = """Exit codes:
  0 done; 1 failed; 2 wrong arguments or configuration; 3 no such transaction;
  4 no manager answers; of 'tcc tx watch': 0 CONFIRMED, 5 CANCELLED, 6 MIXED"""


class CommandError(Exception):
    """A command cannot go on: the message is one line for standard error that says what to do."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code
