"""Awaiting the AMQP library from a safe distance.

Law: no call of the library is awaited by a task of ours directly. It rejects what a dead connection owes with whatever
ended it, a CancelledError included, which would end our task in silence; and it swallows some cancellations, so that a
timeout or a `cancel()` of ours would be lost. In a task of its own a call can do neither to us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

_abandoned: set[asyncio.Future[Any]] = set()
"""Calls that nobody waits for any more, kept from being collected before they end."""


async def bounded(call: Awaitable[T], seconds: float) -> T:
    """Run a call of the library, and wait for it for so long.

    Raises:
        TimeoutError: it took longer; it is cancelled, and may have been done.
        ConnectionError: the connection ended.
        Exception: what the call raised.
    """
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            _abandoned.add(task)
            task.add_done_callback(_ended)
            task.cancel()
    if not done:
        raise TimeoutError
    if task.cancelled():
        raise ConnectionError("the connection ended")
    return task.result()


def _ended(task: asyncio.Future[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # heard, so that nobody complains that it was not
