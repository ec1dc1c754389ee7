"""A list of commands while it is carried out: whose outcomes it waits for, and where these go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import grpc

from tcc.batching import Batcher
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome

Branch: TypeAlias = tuple[str, str, str, str, int]
"""Where a command's outcome goes, and what it is about."""
Word: TypeAlias = "asyncio.Future[None]"
"""That outcomes were handed over, or given up."""

LIST_ITEMS: Final = 512
LIST_BYTES: Final = 1024 * 1024


class Outlet:
    """Outcomes, serialised, on their way to one queue, and how many lists have some for it."""

    def __init__(self, name: str, send: Callable[[Sequence[bytes]], Awaitable[list[Exception | None]]]) -> None:
        self.name = name
        self.users = 0
        self.batcher: Batcher[bytes, None] = Batcher(send, max_items=LIST_ITEMS, max_bytes=LIST_BYTES, size_of=len)


class InHand:
    """A command that is being carried out, and the copies of it that wait for the same outcome.

    Args:
        all_in_hand: in which it stands until it is over.
        branch: its key there.
        command: as it came.

    Attributes:
        together: whether it goes with others.
        over: whether it has its outcome, or was given up.
    """

    __slots__ = ("_all_in_hand", "_branch", "_copies", "command", "over", "together")

    def __init__(self, all_in_hand: dict[Branch, InHand], branch: Branch, command: Command) -> None:
        self._all_in_hand = all_in_hand
        self._branch = branch
        self._copies: list[asyncio.Future[Word | None]] | None = None
        self.command = command
        self.together = False
        self.over = False

    def copy(self) -> asyncio.Future[Word | None]:
        """For a copy: what is known of the outcome that answers it too, once there is one; None where there is none."""
        copy: asyncio.Future[Word | None] = asyncio.get_running_loop().create_future()
        self._copies = [*(self._copies or ()), copy]
        return copy

    def end(self, word: Word | None) -> None:
        """It is over; repeating it does nothing."""
        if self.over:
            return
        self.over = True
        del self._all_in_hand[self._branch]
        for copy in self._copies or ():
            if not copy.done():
                copy.set_result(word)


class Words:
    """Stands where a future would for each of some outcomes.

    Attributes:
        word: done when all of them were handed over.
    """

    __slots__ = ("_left", "word")

    def __init__(self, outcomes: int) -> None:
        self._left = outcomes
        self.word: Word = asyncio.get_running_loop().create_future()

    def done(self) -> bool:
        """Nobody waits for it."""
        return self.word.done()

    def set_result(self, _: object) -> None:
        """One of them was, or was given up."""
        self._left -= 1
        if not self._left:
            self.word.set_result(None)

    set_exception = set_result

    def cancel(self) -> None:
        """None will be."""
        self.word.cancel()


class Carried:
    """A list that is being carried out.

    Args:
        outlet: where its outcomes go; None where nobody wants them.
        until: when its handlers are to be done, on the loop's clock.
    """

    __slots__ = ("handed_over", "late", "ones", "outlet", "tasks", "until")

    def __init__(self, outlet: Outlet | None, until: float) -> None:
        self.outlet = outlet
        self.until = until
        self.ones: list[InHand] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.handed_over: list[Word] = []
        self.late = False

    def run_out(self) -> None:
        """Its time is over: what is not done is stopped."""
        self.late = True
        for task in self.tasks:
            task.cancel()

    def ran_out(self) -> bool:
        """Whether that, and nothing else, has cancelled the task that asks."""
        task = asyncio.current_task()
        return self.late and task is not None and task.uncancel() == 0


def outcome_of(command: Command, kind: transaction_pb2.OutcomeKind.ValueType, message: str) -> Outcome:
    return Outcome(
        namespace=command.namespace,
        gid=command.gid,
        branch=command.branch,
        phase=command.phase,
        attempt=command.attempt,
        kind=kind,
        code=grpc.StatusCode.UNAVAILABLE.value[0],
        message=message,
    )
