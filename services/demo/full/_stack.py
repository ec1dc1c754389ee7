"""The servers that the demo uses, and what it has in them: databases, queues, names that nobody else has.

The law: the servers may be somebody's. What the demo makes there bears the name of its run and is removed at the end;
nothing else is read, changed, flushed or stopped. (The exchange `tcc.commands` stays where there was none.) Only who
gave the servers may also give `Outages` for them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aio_pika
from aiormq.exceptions import AMQPError
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from services.demo._processes import DemoFailed


@dataclass(frozen=True, slots=True)
class Outages:
    """How to disturb servers that are the demo's own.

    Attributes:
        stop_rabbitmq, start_rabbitmq: end it, and start it on the same port and data.
        flush_redis: removes everything; gives how many keys there were.
    """

    stop_rabbitmq: Callable[[], Awaitable[None]]
    start_rabbitmq: Callable[[], Awaitable[None]]
    flush_redis: Callable[[], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the servers are.

    Attributes:
        rabbitmq: `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
        redis: `redis://HOST:PORT/0`.
        postgres: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, of a user that may create databases.
        otlp: `http://HOST:PORT` where spans go; None: nowhere.
        outages: None for servers that are not the demo's own.
        run: what the names of this run have in them, so that they meet no others.
    """

    rabbitmq: str
    redis: str
    postgres: str
    otlp: str | None = None
    outages: Outages | None = None
    run: str = field(default_factory=lambda: secrets.token_hex(2))

    @property
    def service_options(self) -> tuple[str, ...]:
        """What each service is told of the servers, besides its database."""
        spans = ("--otlp", self.otlp) if self.otlp else ()
        return ("--rabbitmq", self.rabbitmq, "--redis", self.redis, *spans)

    def named(self, name: str) -> str:
        """A name for this run alone."""
        return f"{name}-{self.run}"

    @asynccontextmanager
    async def databases(self, names: Sequence[str]) -> AsyncIterator[dict[str, str]]:
        """Makes databases; gives their urls by name.

        They are removed in the end. On a server that is not the demo's own they stay where the block fails by itself,
        for whoever looks for the reason; the error says how they are called.

        Raises:
            DemoFailed: they cannot be made.
        """
        made = {name: f"tcc_demo_{self.run}_{name.replace('-', '_')}" for name in names}
        try:
            url = make_url(self.postgres).set(drivername="postgresql+asyncpg")
            await self._administer(*(f'CREATE DATABASE "{name}"' for name in made.values()))
        except (OSError, SQLAlchemyError) as error:
            raise DemoFailed(f"no databases can be made at --postgres: {error}") from error
        drop = [f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)' for name in made.values()]
        try:
            yield {name: url.set(database=own).render_as_string(hide_password=False) for name, own in made.items()}
        except Exception as error:
            if self.outages is None:
                error.add_note(f"its databases were kept on the server: {', '.join(made.values())}")
            raise
        except asyncio.CancelledError:  # nobody will look for a reason
            with suppress(OSError, SQLAlchemyError):
                await self._administer(*drop)
            raise
        await self._administer(*drop)

    @asynccontextmanager
    async def queues(self, participants: Sequence[str]) -> AsyncIterator[None]:
        """Checks that RabbitMQ is there; removes the participants' queues in the end.

        Raises:
            DemoFailed: it is not.
        """

        async def delete(channel: aio_pika.abc.AbstractChannel) -> None:
            for name in participants:
                await channel.queue_delete(_queue(name))

        await self._channelled(delete)  # of a name that nobody has: it says whether RabbitMQ is there
        try:
            yield
        except BaseException:
            with suppress(DemoFailed):  # it may be down, and what failed is more to the point
                await self._channelled(delete)
            raise
        await self._channelled(delete)

    async def waiting(self, participant: str) -> int:
        """Messages that lie in a participant's queue."""
        found = 0

        async def count(channel: aio_pika.abc.AbstractChannel) -> None:
            nonlocal found
            queue = await channel.get_queue(_queue(participant))
            found = queue.declaration_result.message_count or 0

        await self._channelled(count)
        return found

    async def _channelled(self, use: Callable[[aio_pika.abc.AbstractChannel], Awaitable[None]]) -> None:
        try:
            async with await aio_pika.connect(self.rabbitmq, timeout=10) as connection:
                await use(await connection.channel())
        except (OSError, AMQPError) as error:
            raise DemoFailed(f"RabbitMQ at --rabbitmq: {error!r}") from error

    async def _administer(self, *statements: str) -> None:
        url = make_url(self.postgres).set(drivername="postgresql+asyncpg")
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                for statement in statements:
                    await connection.execute(text(statement))
        finally:
            await engine.dispose()


def _queue(participant: str) -> str:
    return f"tcc.commands.{participant}"
