"""Any Caller as one that calls back: what the engine sends its attempts with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from tcc_server.caller.seam import Caller, CallingBack, Sent, TryCall, TryReply
from tcc_server.core import rules
from tcc_server.core.model import Status

_log = structlog.get_logger(__name__)


def calling_back(caller: Caller) -> CallingBack:
    """The caller itself where it can; else one that waits for its futures."""
    return caller if isinstance(caller, CallingBack) else _Waiting(caller)


class _Waiting:
    """Waits for the end of each attempt."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def call(self, call: TryCall) -> Awaitable[TryReply]:
        """See `Caller`."""
        return self._caller.call(call)

    def send(self, call: TryCall, told: Callable[[TryReply], object]) -> Sent:
        """See `CallingBack`."""
        attempt = asyncio.ensure_future(self._caller.call(call))
        attempt.add_done_callback(partial(_ended, call, told))
        return attempt


def _ended(call: TryCall, told: Callable[[TryReply], object], attempt: asyncio.Future[TryReply]) -> None:
    if attempt.cancelled():
        return
    error = attempt.exception()
    if error is None:
        told(attempt.result())
        return
    _log.error("caller_failed", gid=call.key.gid, step=call.ask.step, exc_info=error)
    told(TryReply(Status(rules.UNKNOWN, "the manager failed at this call: its log says why")))
