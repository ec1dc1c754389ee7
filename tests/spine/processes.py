"""Managers and banks as processes that tests kill, pause and start again on the same port and database."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tcc_server.config import Config, as_toml

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
"""Seconds in which a process that was told to end has ended."""


class Child:
    """One process.

    Attributes:
        port: where it serves.
    """

    def __init__(self, pid: int, stderr: Path) -> None:
        self.pid = pid
        self.port = 0
        self.stderr = stderr
        self._pidfd = os.pidfd_open(pid)
        self._discarded = False

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        signal.pidfd_send_signal(self._pidfd, number)

    async def kill(self) -> None:
        """SIGKILL it, and wait until it is gone."""
        self.send(signal.SIGKILL)
        await self.gone()

    async def gone(self) -> None:
        """Wait until it has ended."""
        ended, _, _ = await asyncio.to_thread(select.select, [self._pidfd], [], [], PATIENCE)
        if not ended:
            raise TimeoutError(f"process {self.pid} did not end within {PATIENCE:g} s")

    def discard(self) -> None:
        """End it, if it has not ended. Idempotent."""
        if self._discarded:
            return
        self._discarded = True
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)


class Nursery:
    """Makes processes by forking one that has imported everything; ends all of them with itself.

    Args:
        folder: for what they write to standard error.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        for child in self._children:
            child.discard()
        if self._process is not None:
            self._process.communicate(timeout=10)  # the end of its input ends it

    async def manager(self, settings: Config, folder: Path, failpoint: str = "none") -> Child:
        """Start a manager; gives it once it serves."""
        file = folder / f"{failpoint.replace(':', '-')}.toml"
        file.write_text(as_toml(settings))
        return await self.manager_of(file, failpoint)

    async def manager_of(self, file: Path, failpoint: str = "none") -> Child:
        """As `manager`, from a configuration file that is there."""
        return await self._start(kind="manager", config=str(file), failpoint=failpoint)

    async def bank(self, name: str, database: Path, port: int) -> Child:
        """Start a bank; gives it once it serves."""
        return await self._start(kind="bank", name=name, database=str(database), listen=f"127.0.0.1:{port}")

    async def _start(self, **order: str) -> Child:
        stderr = self._folder / f"{len(self._children)}.log"
        return await asyncio.to_thread(self._order, {**order, "stderr": str(stderr)}, stderr)

    def _order(self, order: dict[str, str], stderr: Path) -> Child:
        process = self._process
        if process is None:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.spine.child"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        child: Child | None = None
        port: dict[int, int] = {}
        while child is None or child.pid not in port:
            said = json.loads(process.stdout.readline())
            if "port" in said:
                port[said["pid"]] = said["port"]
            else:
                child = Child(said["pid"], stderr)
                self._children.append(child)
        child.port = port[child.pid]
        if not child.port:
            raise AssertionError(f"the process did not start: {stderr.read_text()}")
        return child


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
