"""The processes of a benchmark: on free loopback ports, measured by the CPU time they use, ended by their id."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

_ADDRESS = re.compile(r"127\.0\.0\.1:(?P<port>\d+)")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


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

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        return cpu_seconds(self._process.pid)

    def memory_kib(self) -> int:
        """Resident memory now."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_KIB

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


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; 0 where there is none."""
    return sum(_times(pid)[:2]) / _TICKS


def family_cpu_seconds(pid: int) -> float:
    """The same of a process, its descendants, and those of them that have ended."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            child = int(stat.parent.name)
            children.setdefault(int(_fields(child)[1]), []).append(child)
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return sum(sum(_times(member)) for member in family) / _TICKS


def _times(pid: int) -> tuple[int, ...]:
    """User and system time, and those of children that it waited for, in ticks."""
    try:
        return tuple(map(int, _fields(pid)[11:15]))
    except FileNotFoundError:
        return ()


def _fields(pid: int) -> list[str]:
    """What /proc/PID/stat says from the state on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
