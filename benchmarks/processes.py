"""The processes of a benchmark: on free loopback ports, measured by the CPU time they use, ended by their id."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

_ADDRESS = re.compile(r"127\.0\.0\.1:(?P<port>\d+)")
_TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A Python module that runs as a process of its own and says on its first line where it listens."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    @classmethod
    async def start(cls, module: str, *arguments: str) -> Process:
        """Start it and wait for its first line, in which the first address of this machine is its own.

        Raises:
            RuntimeError: it ended without saying one.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.PIPE
        )
        if process.stdout is None:
            raise RuntimeError("no pipe")
        line = (await process.stdout.readline()).decode().strip()
        address = _ADDRESS.search(line)
        if address is None:
            if process.returncode is None:
                process.kill()
            await process.communicate()
            raise RuntimeError(f"{module} did not start: {line!r}")
        return cls(process, int(address["port"]))

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after 15 s."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(15):
                await self._process.communicate()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
