"""What a check says: one finding for each thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    """As it should be."""
    WARNING = "warning"
    """It works, but something can go wrong, or is slower than it need be."""
    PROBLEM = "problem"
    """Transactions cannot go on, or can be lost."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what, such as `log` or `participant bank-a`.
        level: how bad it is.
        found: what there is, in words without secrets.
        mend: what to do; empty where nothing is to be done, or where `found` says it already.
    """

    subject: str
    level: Level
    found: str
    mend: str = ""


def ok(subject: str, found: str) -> Finding:
    """As it should be."""
    return Finding(subject, Level.OK, found)


def warning(subject: str, found: str, mend: str = "") -> Finding:
    """It works, but."""
    return Finding(subject, Level.WARNING, found, mend)


def problem(subject: str, found: str, mend: str = "") -> Finding:
    """It does not work, or not for long."""
    return Finding(subject, Level.PROBLEM, found, mend)
