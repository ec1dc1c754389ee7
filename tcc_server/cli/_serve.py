"""Runs a manager in this process until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

from tcc_server.app import ManagerApp, StartError
from tcc_server.cli._exits import CommandError
from tcc_server.cli._logging import set_up_logging
from tcc_server.config import Config

_COLLECT_AFTER = (50_000, 50, 100)
"""Objects that are to pile up before the garbage collector looks, and its generations' steps; Python's own 700 makes it
look with nearly every transaction, which took a fifth of the manager's time and doubled its 99th percentile."""


def spare_the_collector() -> None:
    """What was made at the start stays for good: leave it out; and look for the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


async def serve(config: Config, ready: Callable[[int], None]) -> None:
    """Start, say so with the port, serve, drain.

    Raises:
        CommandError: it could not start.
    """
    set_up_logging(config)
    app = ManagerApp(config)
    try:
        await app.start()
    except StartError as error:
        raise CommandError(str(error)) from error
    spare_the_collector()
    serving = asyncio.create_task(app.run())
    try:
        await asyncio.sleep(0)  # its first step takes over the signals; who hears "ready" may send one at once
        ready(app.port)
        await serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await app.stop()
