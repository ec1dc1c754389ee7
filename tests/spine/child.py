"""Starts managers and banks as processes of their own, quickly: imports everything once, then forks for each.

Reads one JSON document a line from standard input and writes one a line to standard output: `{"pid": ...}` for the new
process, then `{"pid": ..., "port": ...}` from the process itself once it serves. No gRPC object exists before the fork.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

from services._server import Options
from services.accounts.__main__ import serve as serve_bank
from tcc_server.app import ManagerApp
from tcc_server.cli._logging import set_up_logging
from tcc_server.config_load import load
from tests.spine.failpoints import Failpoints


def _say(**facts: int) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


async def _manager(order: dict[str, str]) -> None:
    settings = load(Path(order["config"]))
    set_up_logging(settings)
    app = ManagerApp(settings, wrap=Failpoints(order["failpoint"]).wrap)
    await app.start()
    _say(pid=os.getpid(), port=app.port)
    await app.run()


class _Announced(io.StringIO):
    """A bank tells people where it serves; this tells the test."""

    def write(self, text: str) -> int:
        if text.strip():
            _say(pid=os.getpid(), port=int(text.rpartition(":")[2]))
        return len(text)


async def _bank(order: dict[str, str]) -> None:
    with redirect_stdout(_Announced()):
        await serve_bank(Options(listen=order["listen"], database=order["database"], name=order["name"]))


def _child(order: dict[str, str]) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        asyncio.run(_bank(order) if order["kind"] == "bank" else _manager(order))
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        _say(pid=os.getpid(), port=0)  # the test need not wait any longer
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Fork as ordered until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: tests watch their pidfd
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _child(json.loads(line))
        _say(pid=pid)


if __name__ == "__main__":
    main()
