"""Plans of one list, decided side by side: without a task or a future a plan, and answered together where they end so.

The law: each plan is answered once. What one needs beyond waiting for its decision, it gets by itself, as a call does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tcc.v1 import manager_pb2 as pb
from tcc_server.api.under_way import UnderWay
from tcc_server.core.model import Transaction
from tcc_server.engine.live import Lost

Plan = pb.ExecuteStreamRequest.Item


class Waiting:
    """A plan that is being decided. Stands in for a future: see `tcc.batching.Answered`."""

    __slots__ = ("_plans", "end", "item")

    def __init__(self, plans: PlansTogether, item: Plan) -> None:
        self._plans = plans
        self.item = item
        self.end: Transaction | BaseException | None = None

    def done(self) -> bool:
        """Whether nobody waits any more, because the client is gone."""
        return self._plans.left

    def set_result(self, tx: Transaction) -> None:
        """It is decided."""
        self.end = tx
        self._plans.ended(self)

    def set_exception(self, error: BaseException) -> None:
        """It came to nothing, or is worked on elsewhere."""
        self.end = error
        self._plans.ended(self)

    def cancel(self) -> None:
        """Nobody says this of a decision."""


class PlansTogether:
    """What one list brought.

    Args:
        answer: the answer to a plan that ended so.
        by_itself: answers a plan that moved to another manager, and never raises.
        tell: takes answers.
        under_way: counts them all as one call.

    Attributes:
        left: nobody waits for them any more.
    """

    def __init__(
        self,
        answer: Callable[[Plan, Transaction | BaseException], bytes],
        by_itself: Callable[[Plan], Awaitable[bytes]],
        tell: Callable[[Sequence[bytes]], None],
        under_way: UnderWay,
    ) -> None:
        self._answer = answer
        self._by_itself = by_itself
        self._tell = tell
        self._under_way = under_way
        self._untold: dict[Waiting, None] = {}
        self._undecided = 0
        self._ended: list[Waiting] = []
        self._moved: list[Waiting] = []
        self._change: asyncio.Future[None] | None = None
        self.left = False

    @property
    def untold(self) -> Sequence[Plan]:
        """Those that have no answer yet."""
        return [waiting.item for waiting in self._untold]

    def add(self, waiting: Waiting) -> None:
        """One that is being decided from now on."""
        self._untold[waiting] = None
        self._undecided += 1

    def leave(self) -> None:
        """Answer none of them, though they are decided all the same."""
        self.left = True

    async def run(self) -> None:
        """Returns once all are answered. Cancelled, it leaves them; they are decided all the same."""
        self._under_way.begun()
        try:
            async with asyncio.TaskGroup() as group:
                while self._undecided:
                    self._change = asyncio.get_running_loop().create_future()
                    await self._change
                    moved, self._moved = self._moved, []
                    for waiting in moved:
                        group.create_task(self._go_after(waiting))
        finally:
            self.left = True
            self._under_way.ended()

    def ended(self, waiting: Waiting) -> None:
        """One is decided, or never will be here; it is answered in the next turn, with those that end in this one."""
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._answer_all)
        self._ended.append(waiting)

    def _answer_all(self) -> None:
        ended, self._ended = iter(self._ended), []
        if self.left:
            return
        answers = []
        try:
            for waiting in ended:
                self._undecided -= 1
                end = waiting.end
                if isinstance(end, Lost):
                    self._moved.append(waiting)
                elif end is not None:
                    answers.append(self._answer(waiting.item, end))
                    del self._untold[waiting]
        finally:
            for left in ended:  # a bug at the one before, which is told so when the others are answered
                self.ended(left)
            if answers:
                self._tell(answers)
            if (self._moved or not self._undecided) and self._change is not None and not self._change.done():
                self._change.set_result(None)

    async def _go_after(self, waiting: Waiting) -> None:
        answer = await self._by_itself(waiting.item)
        del self._untold[waiting]
        self._tell((answer,))
