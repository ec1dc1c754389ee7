"""The demo's processes: started, killed, paused, started again where they were, and stopped, each by its own id."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

START_TIMEOUT = 20.0
"""Seconds until a process must say where it serves."""

STOP_TIMEOUT = 10.0
"""Seconds that a process gets to end by itself."""


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


class Server:
    """A server in a process of its own. It is always told `--listen`, and says its address in its first line.

    Args:
        name: for people, and of its log file.
        arguments: what follows `python -m`.
        folder: where its log goes.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.address = "127.0.0.1:0"
        self._arguments = arguments
        self._process: Process | None = None

    async def start(self) -> None:
        """Starts it: the first time on a free port, then on the same one again.

        Raises:
            DemoFailed: it does not serve.
        """
        with self.log.open("ab") as log:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self._arguments,
                *self._listen(),
                cwd=CHECKOUT,
                env=_environment(),
                stdout=PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C on the terminal is for the demo alone, which then stops the others
            )
        self.address = await self._first_address(process)

    async def kill(self) -> int:
        """SIGKILL: no chance to finish or to save anything. Gives the exit code."""
        process = self._running()
        process.kill()
        return await process.wait()

    def pause(self) -> None:
        """SIGSTOP: it is there, and answers nobody."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on as if nothing had been."""
        self._running().send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for what doesn't end by that."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _listen(self) -> Sequence[str]:
        """The arguments that tell it where to serve."""
        return ("--listen", self.address)

    def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            raise DemoFailed(f"{self.name} is not running, and should be; see {self.log}")
        return self._process

    async def _first_address(self, process: Process) -> str:
        line = b""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                if process.stdout is not None:
                    line = await process.stdout.readline()
        except TimeoutError:
            raise DemoFailed(f"{self.name} does not serve after {START_TIMEOUT:.0f} s; see {self.log}") from None
        found = re.search(r"127\.0\.0\.1:\d+", line.decode())
        if found is None:
            raise DemoFailed(f"{self.name} did not start; see {self.log}")
        return found[0]


class ConfiguredServer(Server):
    """A server whose address stands in its configuration.

    Args:
        name, arguments, folder: as those of every server.
        address: what its configuration says, host:port.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, address: str) -> None:
        super().__init__(name, arguments, folder)
        self.address = address

    def _listen(self) -> Sequence[str]:
        return ()


async def run_once(name: str, arguments: Sequence[str], folder: Path) -> None:
    """Runs `python -m ARGUMENTS` to its end, with a log like a server's.

    Raises:
        DemoFailed: it did not end with 0.
    """
    path = folder / f"{name}.log"
    with path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, cwd=CHECKOUT, env=_environment(), stdout=log, stderr=log
        )
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if code:
        raise DemoFailed(f"{name} ended with {code}; see {path}")


def _environment() -> dict[str, str]:
    """Without TCC_... variables, which would configure the manager otherwise than the demo says."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TCC_")}
