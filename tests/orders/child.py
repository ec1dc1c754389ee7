"""Runs the orders service, and ends it by SIGKILL at a named step, as a power cut would:

python -m tests.orders.child STEP --listen ... (the service's own options)
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import tcc
from services.orders._book import Book
from services.orders._service import Placement
from tcc.fence import Phase

STEPS: Final[dict[str, tuple[type, str, str, Phase | None]]] = {
    "order heard, row unwritten": (Book, "take", "before", None),
    "row written, Execute unsent": (Book, "take", "after", None),
    "Execute sent, own Try not begun": (tcc.SqlFence, "visit", "before", Phase.TRY),
    "own Try done, uncommitted": (Placement, "TryPlace", "after", None),
    "own Try committed, unanswered": (tcc.SqlFence, "visit", "after", Phase.TRY),
    "answer of Execute heard, row not changed": (Book, "settle", "before", None),
    "row changed, customer not told": (Book, "settle", "after", None),
    "Confirm heard, not begun": (tcc.SqlFence, "visit", "before", Phase.CONFIRM),
    "Confirm done, uncommitted": (Placement, "ConfirmPlace", "after", None),
    "Confirm committed, unanswered": (tcc.SqlFence, "visit", "after", Phase.CONFIRM),
    "Cancel heard, not begun": (tcc.SqlFence, "visit", "before", Phase.CANCEL),
    "Cancel committed, unanswered": (tcc.SqlFence, "visit", "after", Phase.CANCEL),
}
"""Where the process ends: a method, before or after it, and of a fence's visit the phase."""


def end_at(step: str) -> None:
    """Arms a step."""
    owner, name, when, phase = STEPS[step]
    within: Callable[..., Any] = getattr(owner, name)

    @wraps(within)
    async def armed(self: object, *arguments: Any) -> object:
        mine = phase is None or arguments[0].phase is phase
        if mine and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await within(self, *arguments)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, armed)


if __name__ == "__main__":
    end_at(sys.argv.pop(1))
    runpy.run_module("services.orders", run_name="__main__")
