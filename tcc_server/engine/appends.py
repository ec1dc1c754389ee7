"""The rows on their way into the log, and what is done once each is there.

The law: nobody hears of a verdict twice, nor after `drop`; one that cannot be taken keeps no other from being told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from tcc_server.core.messages import Answer
from tcc_server.engine.live import Live
from tcc_server.log.seam import Log, Row, TakingVerdicts


class Append:
    """One row on its way. Stands in for a future, which would cost one callback of the event loop a row.

    Attributes:
        live: the transaction.
        answer: what the row makes durable.
        row: as it was given to the log.
        error: what became of it; None: it is written.
    """

    __slots__ = ("_appends", "answer", "error", "live", "row")

    def __init__(self, appends: Appends, live: Live, answer: Answer, row: Row) -> None:
        self._appends = appends
        self.live = live
        self.answer = answer
        self.row = row
        self.error: BaseException | None = None

    def done(self) -> bool:
        """Whether nobody wants to know any more."""
        return self._appends.dropped

    def set_result(self, _: None) -> None:
        """It is written."""
        self._appends.end(self)

    def set_exception(self, error: BaseException) -> None:
        """It is not, or nobody knows."""
        self.error = error
        self._appends.end(self)

    def cancel(self) -> None:
        """The event loop ends, and the log tells no more."""
        self._appends.drop()


class Appends:
    """All that are under way.

    Args:
        told: hears of each that ended. Those of one group are told in one turn of the event loop, in their order.

    Attributes:
        dropped: nobody is told any more.
    """

    def __init__(self, log: Log, told: Callable[[Append], None]) -> None:
        self._log = log
        self._write = log.write if isinstance(log, TakingVerdicts) else self._wait_for
        self._told = told
        self._count = 0
        self._ended: list[Append] = []
        self._futures: set[asyncio.Future[None]] = set()
        self._idle: asyncio.Future[None] | None = None
        self.dropped = False

    def __len__(self) -> int:
        return 0 if self.dropped else self._count

    def start(self, live: Live, answer: Answer, row: Row) -> None:
        """Append a row."""
        self._count += 1
        self._write(row, Append(self, live, answer, row))

    def end(self, append: Append) -> None:
        """Tell of it in the next turn, with all others that end in this one: the next group is to leave first."""
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._tell)
        self._ended.append(append)

    async def drain(self) -> None:
        """Returns once none is under way."""
        while len(self):
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    def drop(self) -> None:
        """Let go of those that are under way."""
        self.dropped = True
        for future in self._futures:
            future.cancel()
        self._wake()

    def _tell(self) -> None:
        ended, self._ended = iter(self._ended), []
        try:
            for append in ended:
                self._count -= 1
                if not self.dropped:
                    self._told(append)
        finally:
            for left in ended:  # the one before failed
                self.end(left)
            if not self._count:
                self._wake()

    def _wake(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    def _wait_for(self, row: Row, append: Append) -> None:
        """Of a log that gives nothing but something to wait for."""
        future = asyncio.ensure_future(self._log.append(row))
        self._futures.add(future)
        future.add_done_callback(partial(self._waited_for, append))

    def _waited_for(self, append: Append, future: asyncio.Future[None]) -> None:
        self._futures.discard(future)
        append.error = None if future.cancelled() else future.exception()  # nobody but `drop` cancels one
        self._ended.append(append)
        self._tell()
