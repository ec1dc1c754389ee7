"""Managers and banks as their users start them, `python -m ...`: killed, paused, ended, started where they were."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.servers.process import Process, answers

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 60.0
"""Seconds, of a machine that does much else."""


class Program:
    """A server in a process of its own.

    Args:
        words: what follows `python -m`.
        port: where these words make it listen.
        log: the file that it writes to.
    """

    def __init__(self, words: Sequence[str], port: int, log: Path) -> None:
        self.port = port
        self._words = words
        self._log = log
        self._process: Process | None = None

    @property
    def address(self) -> str:
        """Where it serves."""
        return f"127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """All that it has written so far."""
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Start it; returns once it listens."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TCC_")}
        kept["PYTHONPATH"] = str(ROOT)
        process = self._process = Process([sys.executable, "-m", *self._words], self._log, kept)
        process.wait_until(lambda: answers(self.port), START_TIMEOUT)

    async def started(self) -> None:
        """As `start`, while the test goes on."""
        await asyncio.to_thread(self.start)

    async def killed(self) -> None:
        """SIGKILL, and wait until it is gone."""
        await asyncio.to_thread(self._running().end, signal.SIGKILL)

    async def ended(self, seconds: float) -> int | None:
        """SIGTERM; the exit code. It is killed where it has not ended in so many seconds."""
        await asyncio.to_thread(self._running().end, signal.SIGTERM, seconds)
        return self._running().exit_code

    def pause(self) -> None:
        """SIGSTOP."""
        self._running().send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._running().send(signal.SIGCONT)

    def stop(self) -> None:
        """SIGKILL, where it runs."""
        if self._process is not None:
            self._process.end(signal.SIGKILL)

    def _running(self) -> Process:
        assert self._process is not None
        return self._process
