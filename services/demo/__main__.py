"""Runs the demo. Exit 0 only if every part of the proof holds."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import tcc
from services.demo._processes import CHECKOUT, DemoFailed
from services.demo._proof import Facts, prove
from services.demo._show import Show
from services.demo._story import Story

LIMIT = 60.0
"""Seconds that the demo may take."""


async def run(folder: Path, as_json: bool) -> bool:
    """Tells the story and proves its end. Gives whether all of it holds."""
    task = asyncio.current_task()
    if task is not None:  # Ctrl-C cancels the task too: both ways lead through the `finally` that stops the processes
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    began = time.monotonic()
    show = Show(quiet=as_json)
    story = Story(folder, show.say, show.answered)
    async with story.running():
        async with asyncio.timeout(LIMIT):
            with show.live():
                facts = await story.tell()
        checks = prove(facts)
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
    return holds


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


def _in_words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"it took longer than {LIMIT:.0f} s"
    if isinstance(error, DemoFailed | tcc.TccError):
        return str(error)
    traceback.print_exception(error)  # not foreseen: whoever mends it needs the place
    return repr(error)


def main() -> int:
    """Reads the command line; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.demo", description="Bank transfers with crashes.")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document, and nothing else")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tcc-demo-"))
    try:
        if asyncio.run(run(folder, options.json)):
            shutil.rmtree(folder)
            return 0
        why, code = "not all of it holds", 1
    except KeyboardInterrupt:
        why, code = "it was interrupted", 130
    except asyncio.CancelledError:
        why, code = "it was told to end", 143
    except Exception as error:
        why, code = "; ".join(map(_in_words, _leaves(error))), 1
    print(f"The demo failed: {why}. Logs and databases are in {folder}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
