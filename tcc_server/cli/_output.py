"""Where output goes: people get colour on a terminal, pipes get plain text or JSON, one document a line."""

from __future__ import annotations

import json
import os
import sys

from rich.console import Console

_WIDTH_IN_PIPES = 160


class _Console(Console):
    """A console that leaves a reader's going away to the one place that handles it."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """Standard output. Colour only on a terminal and not where NO_COLOR is set."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return _Console(file=sys.stdout, highlight=False, width=None if narrow else _WIDTH_IN_PIPES)


def print_json(document: object) -> None:
    """One JSON document on a line of its own, at once."""
    print(json.dumps(document, ensure_ascii=False), flush=True)


def printable(text: str) -> str:
    """Text from elsewhere, with what could steer a terminal or break a line written as an escape."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
