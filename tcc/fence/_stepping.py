"""Running a handler's coroutine without a task of its own, which would cost more than most handlers of a list do.

The task of the list steps it, in its own context. To asyncio the handler's turn is a task all the same, by the few
functions that asyncio has for tasks of others' making: `asyncio.current_task()` is the turn while the handler runs, so
that `asyncio.timeout`, a task group, or whatever keeps something for a task, means this handler and no other.

The law: whatever is thrown into the list's task while a handler is under way reaches the handler first, as it would
with an ordinary `await`.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task  # documented in "Extending", "Task lifetime support"
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from types import coroutine
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class Stopped(Exception):
    """The coroutine ended by a CancelledError that was its own: nobody cancelled the task that it runs in."""


class Turn(Generic[R]):
    """One coroutine's run, in the task that makes it.

    Args:
        work: the coroutine.
        context: in which it runs, and nothing else does.

    Attributes:
        result: what it gave, once it has ended.
    """

    __slots__ = ("__weakref__", "_awaited", "_cancels", "_context", "_loop", "_must_cancel", "_task", "_work", "result")

    result: R

    def __init__(self, work: Coroutine[Any, Any, R], context: Context, task: asyncio.Task[Any]) -> None:
        self._work = work
        self._context = context
        self._task = task
        self._loop = task.get_loop()
        self._awaited: Any = None
        self._cancels = 0
        self._must_cancel = False

    def go_on(self) -> bool:
        """Runs it until it ends (True) or waits for something (False). Raises what it raises.

        It has not begun yet, or what it waited for is done.
        """
        return self._step(self._work.send, None)

    def awaits(self, future: asyncio.Future[Any]) -> bool:
        """Whether this is what it waits for."""
        return self._awaited is future

    def stop(self) -> None:
        """Cancels it, and not the task in which it runs."""
        self.cancel()

    async def finish(self) -> R:
        """Goes on with it to its end.

        Raises:
            Stopped: it was cancelled, or raised a CancelledError itself.
            BaseException: what it raised; CancelledError where the task was cancelled.
        """
        before = self._task.cancelling()
        try:
            await self._rest()
        except asyncio.CancelledError as error:
            if self._task.cancelling() > before:
                raise
            raise Stopped from error
        return self.result

    @coroutine
    def _rest(self) -> Generator[Any, Any, None]:
        ended = False
        while not ended:
            try:
                answer = yield self._awaited
            except GeneratorExit:
                self._work.close()
                raise
            except BaseException as error:
                ended = self._step(self._work.throw, error)
            else:
                ended = self._step(self._work.send, answer)

    def _step(self, step: Callable[[Any], Any], value: Any) -> bool:
        self._awaited = None
        if self._must_cancel:
            self._must_cancel = False
            step, value = self._work.throw, asyncio.CancelledError()
        _leave_task(self._loop, self._task)
        _enter_task(self._loop, self)  # type: ignore[arg-type]  # to asyncio it is one
        try:
            awaited = self._awaited = self._context.run(step, value)
        except StopIteration as ended:
            self.result = ended.value
            return True
        finally:
            _leave_task(self._loop, self)  # type: ignore[arg-type]  # as above
            _enter_task(self._loop, self._task)
        if self._must_cancel and awaited is not None and awaited.cancel():  # it cancelled itself before it waited
            self._must_cancel = False
        return False

    # What tasks can be asked for, too.

    def cancel(self, msg: Any = None) -> bool:
        """As of a task: a CancelledError reaches the coroutine where it waits."""
        self._cancels += 1
        if self._awaited is None or not self._awaited.cancel(msg):
            self._must_cancel = True
        return True

    def cancelling(self) -> int:
        """As of a task."""
        return self._cancels

    def uncancel(self) -> int:
        """As of a task."""
        self._cancels = max(0, self._cancels - 1)
        return self._cancels

    def done(self) -> bool:
        """As of a task."""
        return hasattr(self, "result")

    def get_coro(self) -> Coroutine[Any, Any, R]:
        """As of a task."""
        return self._work

    def get_name(self) -> str:
        """As of a task."""
        return f"{self._task.get_name()}: handler"

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """As of a task."""
        return self._loop
