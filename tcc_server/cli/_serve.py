"""Runs a manager in this process until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tcc_server.app import ManagerApp, StartError
from tcc_server.cli._exits import CommandError
from tcc_server.cli._logging import set_up_logging
from tcc_server.config import Config


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
    serving = asyncio.create_task(app.run())
    try:
        await asyncio.sleep(0)  # its first step takes over the signals; who hears "ready" may send one at once
        ready(app.port)
        await serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await app.stop()
