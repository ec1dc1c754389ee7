"""Rows on their way to a database, in groups: what the logs on disk append with.

A group leaves as soon as the one before has returned, and each row gets its own verdict. Rows of one transaction never
share a group and leave in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tcc.batching import Answered, Batcher, BatcherClosed
from tcc_server.log.rules import problem_with, size_of
from tcc_server.log.seam import LogError, LogRejected, LogUnknown, Row


class Groups:
    """Takes rows between `open` and `close`.

    Args:
        send: writes a group; a verdict for each row, None for success.
        max_rows: of one group.
        max_bytes: of one group.
    """

    def __init__(
        self, send: Callable[[Sequence[Row]], Awaitable[Sequence[Exception | None]]], *, max_rows: int, max_bytes: int
    ) -> None:
        self._batcher = Batcher[Row, None](
            send, max_items=max_rows, max_bytes=max_bytes, size_of=size_of, key_of=lambda row: row.key
        )
        self._is_open = False

    def open(self) -> None:
        """Take rows from now on."""
        self._is_open = True

    async def close(self) -> None:
        """Take no more, and return once all that was taken is told. Idempotent."""
        await self._batcher.close()

    def append(self, row: Row) -> asyncio.Future[None]:
        """See `Log.append`."""
        verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.write(row, verdict)
        return verdict

    def write(self, row: Row, verdict: Answered[None]) -> None:
        """See `TakingVerdicts.write`."""
        error: LogError
        if (problem := problem_with(row)) is not None:
            error = LogRejected(problem)
        elif not self._is_open:
            error = LogUnknown("the log is not open")
        else:
            try:
                self._batcher.put_all(((row, verdict),))
                return
            except BatcherClosed:
                error = LogUnknown("the log is closed")
        asyncio.get_running_loop().call_soon(_tell, verdict, error)


def _tell(verdict: Answered[None], error: LogError) -> None:
    if not verdict.done():
        verdict.set_exception(error)
