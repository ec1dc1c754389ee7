"""Banks as processes of their own, and what a manager would send them."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tcc import wire

ROOT = Path(__file__).parents[2]


class Bank:
    """A running `python -m services.accounts`."""

    def __init__(self, process: Process, first_line: str) -> None:
        self.process = process
        self.first_line = first_line
        self.address = first_line.split()[-1]


@asynccontextmanager
async def bank(database: Path, listen: str = "127.0.0.1:0") -> AsyncIterator[Bank]:
    """Starts a bank, waits until it says that it serves, and ends it."""
    command = ("-m", "services.accounts", "--listen", listen, "--database", str(database), "--name", "bank-a")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    if process.stdout is None or process.stderr is None:
        raise AssertionError("the process has no pipes")
    try:
        line = (await process.stdout.readline()).decode().strip()
        if not line:
            raise AssertionError(f"the bank did not start: {(await process.stderr.read()).decode()}")
        yield Bank(process, line)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def metadata(gid: str, phase: str, attempt: int = 1) -> tuple[tuple[str, str], ...]:
    """What a manager says of a branch."""
    return (
        (wire.NAMESPACE, "default"),
        (wire.GID, gid),
        (wire.BRANCH, "0"),
        (wire.PHASE, phase),
        (wire.ATTEMPT, str(attempt)),
        (wire.DEADLINE, str(int((time.time() + 30) * 1000))),
        (wire.REQUEST_HASH, "0a"),
    )
