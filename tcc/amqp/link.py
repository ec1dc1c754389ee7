"""One connection to RabbitMQ that is kept up: whatever ends it, another takes its place, after a pause that grows.

What is wrong is said once, in words that say what to do, until it works again, which is said too. What a
connection needs (declarations, consumers) is set up anew on each, by whoever owns the link.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.connection import Connection, make_url

from tcc.amqp.bounded import bounded
from tcc.amqp.problems import Problem, QueueGone, explain, where

_log = logging.getLogger("tcc.amqp")

HEARTBEAT: Final = 10
"""Seconds; a peer that fell silent is given up after three times this and a little."""

_CLOSING = 1.0
"""Seconds that a connection gets to say goodbye."""
_PERSISTENCE = 5
"""So often a task is told to end."""

_ours: ContextVar[bool] = ContextVar("tcc.amqp.ours", default=False)


@dataclass(frozen=True, slots=True)
class Pauses:
    """Between one attempt and the next, in seconds: `first`, doubling up to `longest`, jittered.

    Attributes:
        lasting: instead of `longest`, where only a person can end what is wrong.
        steady: a connection that stands for this long starts from `first` again.
    """

    first: float = 0.1
    longest: float = 5.0
    lasting: float = 30.0
    steady: float = 5.0

    def after(self, failures: int, problem: Problem) -> float:
        """The pause after so many failures in a row."""
        ceiling = self.lasting if problem.lasting else self.longest
        jitter = random.uniform(0.5, 1.0)  # noqa: S311  no secret
        return max(problem.rest, min(ceiling, self.first * 2.0 ** min(failures, 30))) * jitter


class Session:
    """A connection while it stands, with one channel that confirms what it takes.

    Attributes:
        channel: open; messages that cannot be routed come back as errors.
    """

    def __init__(self, connection: Connection, channel: AbstractChannel) -> None:
        self.connection: AbstractConnection = connection
        self.channel = channel
        self._ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        connection.close_callbacks.add(self._closed)
        self.depends_on(channel)

    def end(self, why: BaseException | None) -> None:
        """Give this connection up: the link makes another."""
        if not self._ended.done():
            self._ended.set_result(why)

    @property
    def stands(self) -> bool:
        """Nothing ended it yet."""
        return not self._ended.done()

    async def ended(self) -> BaseException | None:
        """Waits for the end; gives the reason where there is one."""
        return await asyncio.shield(self._ended)

    async def unblocked(self) -> bool:
        """Waits while the broker, short of memory or disk, takes no messages; False where the connection ended."""
        transport = self.connection.transport
        if transport is None:
            return False
        free = asyncio.ensure_future(transport.ready())
        try:
            await asyncio.wait({free, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            free.cancel()
        return self.stands

    def depends_on(self, channel: AbstractChannel, needed: Callable[[], bool] = lambda: True) -> None:
        """From now on the session ends with this channel, if it is still needed then."""

        def closed(_: object, why: BaseException | None) -> None:
            if needed():
                self.end(why)

        channel.close_callbacks.add(closed)

    async def watch_consumers(self, channel: AbstractChannel) -> None:
        """From now on the session ends when the broker cancels a consumer, as it does when a queue is deleted."""
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(self._consumer_cancelled)

    def _closed(self, _: object, why: BaseException | None) -> None:
        self.end(why)

    def _consumer_cancelled(self, _: object) -> None:
        self.end(QueueGone())


SetUp = Callable[[Session], Awaitable[None]]


class Link:
    """Keeps a connection up from `start` to `close`.

    Args:
        url: `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
        name: shown by RabbitMQ's tools, and in messages.
        set_up: run on each new connection before it is used; what it raises ends that connection.
        heartbeat: seconds.
        opening: seconds that connecting and setting up may take.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        set_up: SetUp,
        heartbeat: int = HEARTBEAT,
        opening: float = 10.0,
        pauses: Pauses | None = None,
    ) -> None:
        self._url = url
        self._name = name
        self._set_up = set_up
        self._heartbeat = heartbeat
        self._opening = opening
        self._pauses = pauses or Pauses()
        self._session: Session | None = None
        self._changed = asyncio.Event()
        self._said: set[str] = set()
        self._failures = 0
        self._keeping: asyncio.Task[None] | None = None
        self.opened = 0

    @property
    def session(self) -> Session | None:
        """The connection that stands."""
        return self._session

    def start(self) -> None:
        """Begin to connect; returns at once."""
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name=f"amqp {self._name}")

    async def up(self) -> Session:
        """Waits for a connection that stands."""
        while self._session is None or not self._session.stands:
            self._changed.clear()
            await self._changed.wait()
        return self._session

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        if self._keeping is not None:
            await end(self._keeping)
            self._keeping = None

    def works(self) -> None:
        """The connection did what it is for: the next loss is a new one."""
        self._failures = 0
        if self._said:
            _log.warning("%s: RabbitMQ at %s is there again", self._name, where(self._url))
            self._said.clear()

    async def _keep(self) -> None:
        hush()
        while True:
            try:
                connection = await self._connect()
            except Exception as error:
                problem = self._say(error)
            else:
                problem = self._say(await self._use(connection))
            pause = self._pauses.after(self._failures, problem)
            self._failures += 1
            await asyncio.sleep(pause)

    async def _connect(self) -> Connection:
        url = make_url(self._url, heartbeat=self._heartbeat)
        connection = Connection(url, client_properties={"connection_name": self._name})
        try:
            await bounded(connection.connect(), self._opening)
        except BaseException:
            await _close(connection)
            raise
        return connection

    async def _use(self, connection: Connection) -> BaseException | None:
        """Set the connection up, and stay until it ends; gives the reason."""
        try:
            try:
                session = await bounded(self._open(connection), self._opening)
            except Exception as error:
                return error
            self._session = session
            self.opened += 1
            self._changed.set()
            steady = asyncio.get_running_loop().call_later(self._pauses.steady, self.works)
            try:
                return await session.ended()
            finally:
                steady.cancel()
                self._session = None
                session.end(None)
        finally:
            await _close(connection)

    async def _open(self, connection: Connection) -> Session:
        channel = connection.channel(on_return_raises=True)
        await channel.initialize()
        session = Session(connection, channel)
        await self._set_up(session)
        return session

    def _say(self, error: BaseException | None) -> Problem:
        problem = explain(error, self._url)
        if problem.what not in self._said:
            self._said.add(problem.what)
            (_log.error if problem.lasting else _log.warning)("%s: %s; trying again", self._name, problem.text)
        return problem


async def _close(connection: Connection) -> None:
    try:
        await bounded(connection.close(), _CLOSING)
    except Exception as error:
        _log.debug("a connection did not close cleanly: %r", error)


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks, and wait for their ends; what they raise is dropped.

    More than once where it must be: others' code may swallow a cancellation.
    """
    left = {task for task in tasks if not task.done()}
    for _ in range(_PERSISTENCE):
        if not left:
            break
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CLOSING)
    if left:
        _log.error("these do not end: %s", ", ".join(task.get_name() for task in left))
    await asyncio.gather(*(task for task in tasks if task.done()), return_exceptions=True)


def hush() -> None:
    """What the libraries log of this task's doings, and of those it starts, is not heard: `Link` says it in words."""
    _ours.set(True)


def _not_ours(_: logging.LogRecord) -> bool:
    return not _ours.get()


# The libraries shout at each attempt what is said here once, in words. Connections of others are heard as ever.
for _library in ("aiormq.connection", "aiormq.channel", "aio_pika"):
    logging.getLogger(_library).addFilter(_not_ours)
