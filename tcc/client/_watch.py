"""Following one transaction over streams that may break: each is taken up where the last one ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc.aio

from tcc.client import _mapping
from tcc.client._line import Line
from tcc.client._transport import trace_context
from tcc.client._views import TransactionView
from tcc.errors import ManagerUnavailable
from tcc.v1 import manager_pb2


async def watch(line: Line, gid: str, after_version: int, patience: float) -> AsyncGenerator[TransactionView, None]:
    """States of `gid` later than `after_version`, until the final one; see `Manager.watch`.

    `patience` is how many seconds may pass without a sign of the manager.
    """
    clock = asyncio.get_running_loop().time
    metadata = trace_context()
    end = clock() + patience
    failures = 0
    cause: grpc.aio.AioRpcError | None = None
    while (left := end - clock()) > 0 and await line.transport.ready(left):
        request = manager_pb2.WatchRequest(gid=gid, after_version=after_version)
        heard = False
        try:
            async with aclosing(line.transport.watch(request, metadata)) as stream:
                async for response in stream:
                    view = TransactionView.of(response.transaction)
                    heard = True
                    failures = 0
                    if view.version > after_version:
                        after_version = view.version
                        yield view
                    if view.state.is_final:
                        return
            if not heard:  # an end without a word: there is nothing later than what the caller has
                return
        except grpc.aio.AioRpcError as error:
            if error.code() not in _mapping.UNREAD:
                raise _mapping.manager_error(error) from error
            cause = error
        if not failures:
            end = clock() + patience
        failures += 1
        await asyncio.sleep(line.pace.delay(failures))
    raise ManagerUnavailable(
        f"the manager was away for {patience:.0f} s while transaction {gid} was watched"
    ) from cause
