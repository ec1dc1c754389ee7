"""Runs a demo: tells its story, proves its end, shows both, and leaves nothing behind if all went well."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import tcc
from services.demo._processes import CHECKOUT, DemoFailed, Server
from services.demo._proof import Check, Facts
from services.demo._show import Show
from services.demo._transfers import Told

F = TypeVar("F", bound=Facts)


class Tale(Protocol[F]):
    """A story as this module needs it."""

    manager: Server

    def running(self) -> AbstractAsyncContextManager[None]:
        """Everything runs, as long as the block lasts."""

    async def tell(self) -> F:
        """All that happens."""

    def prove(self, facts: F) -> list[Check]:
        """What must hold after it."""


@dataclass(frozen=True, slots=True)
class Demo(Generic[F]):
    """A demo to run.

    Attributes:
        what: its clients ask for.
        total: how often.
        limit: seconds that it may take.
        story: makes it of a folder for logs, of who hears each step, and of who hears each client's answer.
    """

    what: str
    total: int
    limit: float
    story: Callable[[Path, Callable[[str], None], Callable[[Told], None]], Tale[F]]


async def _run(demo: Demo[F], folder: Path, as_json: bool) -> None:
    """Tells the story and proves its end. Raises DemoFailed unless all of it holds."""
    task = asyncio.current_task()
    if task is not None:  # Ctrl-C cancels the task too: both ways lead through the `finally` that stops the processes
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    began = time.monotonic()
    show = Show(demo.what, demo.total, quiet=as_json)
    story = demo.story(folder, show.say, show.answered)
    async with story.running():
        async with asyncio.timeout(demo.limit):
            with show.live():
                facts = await story.tell()
        checks = story.prove(facts)
        holds = all(check.holds for check in checks)
        show.outcomes(facts)
        show.proof(checks)
        show.console.print(f"\nTimeline: tcc tx show {facts.bank_kill.gid}")
        timeline = await _timeline(facts, story.manager.address, as_json)
        seconds = time.monotonic() - began
        if as_json:
            proof = [{**asdict(check), "holds": check.holds} for check in checks]
            document = {"holds": holds, "seconds": round(seconds, 1), "proof": proof, "facts": asdict(facts)}
            print(json.dumps({**document, "timeline": json.loads(timeline)}))
        show.console.print(f"\n{'All of it holds.' if holds else 'NOT ALL OF IT HOLDS.'} {seconds:.1f} s")
        if not holds:  # in the block, which then keeps what may tell the reason
            raise DemoFailed("not all of it holds")


async def _timeline(facts: Facts, manager: str, as_json: bool) -> str:
    """The transfer that outlived a bank, shown by the command line as anybody would. Its output, if as JSON."""
    command = ("-m", "tcc", "tx", "show", facts.bank_kill.gid, "--manager", manager)
    sys.stdout.flush()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        *(["--json"] if as_json else []),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE if as_json else None,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise DemoFailed(f"'tcc {' '.join(command[2:])}' failed with {process.returncode}")
    return (output or b"").decode()


def _leaves(error: Exception) -> list[Exception]:
    """What a task group collected, or the error itself."""
    if isinstance(error, ExceptionGroup):
        return [leaf for below in error.exceptions for leaf in _leaves(below)]
    return [error]


def _in_words(error: Exception, limit: float) -> str:
    if isinstance(error, TimeoutError):
        return f"it took longer than {limit:.0f} s"
    if isinstance(error, DemoFailed | tcc.TccError):
        return str(error)
    traceback.print_exception(error)  # not foreseen: whoever mends it needs the place
    return repr(error)


def run(demo: Demo[F], as_json: bool) -> int:
    """Runs a demo in a folder of its own; gives the exit code. The folder stays where not all went well."""
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what it would say of a broker that is away, we say
    folder = Path(tempfile.mkdtemp(prefix="tcc-demo-"))
    try:
        asyncio.run(_run(demo, folder, as_json))
        shutil.rmtree(folder)
        return 0
    except KeyboardInterrupt:
        why, code = "it was interrupted", 130
    except asyncio.CancelledError:
        why, code = "it was told to end", 143
    except Exception as error:
        words = [_in_words(leaf, demo.limit) for leaf in _leaves(error)]
        why, code = "; ".join([*words, *getattr(error, "__notes__", [])]), 1
    print(f"The demo failed: {why}. Logs and databases are in {folder}", file=sys.stderr)
    return code
