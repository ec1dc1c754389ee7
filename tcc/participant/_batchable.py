"""`@tcc.batchable`: this handler touches only its session, so its database transaction may be shared with others."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from tcc.errors import UsageError

H = TypeVar("H", bound=Callable[..., Awaitable[Any]])

_MARK: Final = "__tcc_batchable__"


def batchable(handler: H) -> H:
    """Lets calls of a Try, Confirm or Cancel share one database transaction with others that arrive meanwhile.

        class Accounts(AccountsServicer):
            @tcc.batchable
            async def ConfirmDebit(self, request, context):
                await fence.session.execute(...)

    What such a handler may count on does not change: its effect stands together with its branch's row or not at all,
    and its refusal or failure undoes nobody else's effect. But handlers of a list run one after the other, and all of
    them wait for each. So mark a handler only if it works on `fence.session` alone: no other service, no other
    database, no tasks that outlive it, no sleeping. One that takes a second is stopped, rolled back, and run again in
    a transaction of its own; so is a whole list whose transaction fails.

    It takes a fence that can share (`tcc.SqlFence` can); with another, each call is a transaction as ever.

    Args:
        handler: the servicer's method; returned as it is. Put no other decorator over this one, unless it keeps
            attributes, as those made with `functools.wraps` do.

    Raises:
        UsageError: it is no coroutine function.
    """
    marked: object = handler
    if not inspect.iscoroutinefunction(marked):
        name = getattr(handler, "__qualname__", repr(handler))
        raise UsageError(f"@tcc.batchable is for handlers of Try, Confirm and Cancel, and {name} is not `async def`")
    setattr(handler, _MARK, True)
    return handler


def is_batchable(handler: Callable[..., object]) -> bool:
    """Whether a handler was marked."""
    return getattr(handler, _MARK, False) is True
