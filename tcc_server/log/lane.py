"""A thread with one connection to SQLite, and the way there and back.

The law: the connection is touched on the thread alone, one piece of work after the other in the order in which they
were given. A piece of work always comes to its end, and whoever waits for it hears of it, whatever it raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

_Result = TypeVar("_Result")
_Work: TypeAlias = "tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[..., Any], tuple[object, ...]]"


class Lane:
    """A thread, and the one connection that only it touches. After an error the connection is dropped and made anew.

    A thread of one's own with a plain queue: an executor makes two futures for each piece of work, and costs twice as
    much CPU there and back.

    Args:
        name: of the thread.
        connect: makes the connection, on the thread.
    """

    def __init__(self, name: str, connect: Callable[[], Connection]) -> None:
        self._name = name
        self._connect = connect
        self._connection: Connection | None = None
        self._given: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._is_closed = False

    async def run(self, work: Callable[..., _Result], *args: object) -> _Result:
        """Run something on the thread. A cancelled caller stops waiting; the work goes on.

        Raises:
            RuntimeError: the lane is closed, or no thread can be started; nothing is done.
            BaseException: what the work raised.
        """
        return await self._give(work, *args)

    async def close(self) -> None:
        """Finish what was given, close the connection, end the thread. Idempotent."""
        if self._is_closed:
            return
        done = None if self._thread is None else self._give(self.disconnect)
        self._is_closed = True
        if done is not None:
            self._given.put(None)
            await done

    def _give(self, work: Callable[..., _Result], *args: object) -> asyncio.Future[_Result]:
        if self._is_closed:
            raise RuntimeError(f"{self._name} is closed: nothing more is done there")
        if self._thread is None:
            # A daemon, so that a process that ends without closing its log does end: to the file that is a crash.
            thread = Thread(target=self._do_all, name=self._name, daemon=True)
            thread.start()  # where the system has no room for one, the next piece of work asks again
            self._thread = thread
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_Result] = loop.create_future()
        self._given.put((loop, done, work, args))
        return done

    def connect(self) -> Connection:
        """The connection. On the thread alone."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def disconnect(self) -> None:
        """Drop the connection, whatever state it is in. On the thread alone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):  # it is being thrown away
                connection.close()

    def _do_all(self) -> None:
        while (given := self._given.get()) is not None:
            loop, done, work, args = given
            result: object = None
            error: BaseException | None = None
            try:
                result = work(*args)
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, done, result, error)
            del given, loop, done, work, args, result, error  # while nothing is given, nothing is kept


def _settle(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    elif isinstance(error, StopIteration):  # no future takes one
        done.set_exception(RuntimeError("a StopIteration was raised on the thread"))
    else:
        done.set_exception(error)
