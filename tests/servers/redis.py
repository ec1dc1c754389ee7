"""A private Redis."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.servers.process import Process, answers, free_port, program


class Redis:
    """One redis-server, without persistence, that evicts nothing.

    Args:
        folder: its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Process | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """For clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, on the same port each time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [program("redis-server", "redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self._folder), "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
        self._process = Process(command, self._folder / "redis.log")
        self._process.wait_until(lambda: answers(self.port), 20)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL it."""
        if self._process is not None:
            self._process.end(signal.SIGKILL)

    def pause(self) -> None:
        """It accepts connections and says nothing."""
        if self._process is not None:
            self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        if self._process is not None:
            self._process.send(signal.SIGCONT)
