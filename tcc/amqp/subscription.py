"""A participant's subscription to its queue: begun on each connection, and begun anew while nothing comes.

A broker tells consumers when their queue is deleted, but not always: after a deletion in the moment of subscribing, or
where a queue was declared in the place of one just deleted, RabbitMQ 3.10 was seen to count a consumer that never hears
anything again. The connection is well and nothing shows it. So a subscription to which nothing comes is replaced by a
new one, on a new channel, from time to time: that costs an idle participant a few frames, a deaf one that time at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from tcc.amqp.bounded import bounded
from tcc.amqp.link import Session, end, hush
from tcc.amqp.topology import declare_on

_OPENING: Final = 10.0
"""Seconds that subscribing may take."""


@dataclass(slots=True)
class _Open:
    channel: AbstractChannel
    queue: AbstractQueue
    tag: str


class Subscription:
    """Takes messages from a participant's queue.

    Args:
        take: is given each message, on the channel that it came by.
        is_busy: whether messages that came before are still to be acknowledged.
        messages_ahead: so many may come before the first of them is acknowledged.
        renew_after: seconds without a message after which the subscription is begun anew.
    """

    def __init__(
        self,
        participant: str,
        take: Callable[[AbstractIncomingMessage], Awaitable[None]],
        is_busy: Callable[[], bool],
        *,
        messages_ahead: int,
        renew_after: float,
    ) -> None:
        self._participant = participant
        self._take = take
        self._is_busy = is_busy
        self._messages_ahead = messages_ahead
        self._renew_after = renew_after
        self._open: _Open | None = None
        self._left: list[AbstractChannel] = []
        self._came = False
        self._stopped = False
        self._watching: asyncio.Task[None] | None = None
        self.renewed = 0

    async def begin(self, session: Session) -> None:
        """Subscribe on a new connection. Raises Exception: see `tcc.amqp.problems`."""
        self._open = None
        self._left.clear()
        if self._watching is not None:
            await end(self._watching)
        await self._subscribe(session)
        self._watching = asyncio.create_task(self._watch(session), name=f"{self._participant}: subscription")

    async def stop(self) -> None:
        """Take nothing more; what came can still be acknowledged."""
        self._stopped = True
        if self._watching is not None:
            await end(self._watching)
        if self._open is not None:
            with suppress(Exception):  # a connection that fails now delivers nothing more either
                await bounded(self._open.queue.cancel(self._open.tag), _OPENING)

    async def _subscribe(self, session: Session) -> None:
        if self._stopped:
            return
        channel = session.connection.channel(publisher_confirms=False)
        await channel.initialize()
        await channel.set_qos(prefetch_count=self._messages_ahead)
        queue = await declare_on(channel, self._participant)
        session.depends_on(channel, lambda: self._open is not None and self._open.channel is channel)
        await session.watch_consumers(channel)
        before, self._open = self._open, _Open(channel, queue, await queue.consume(self._note))
        if before is not None:
            await before.queue.cancel(before.tag)
            self._left.append(before.channel)

    async def _renew(self, session: Session) -> None:
        await self._close_left()
        await self._subscribe(session)

    async def _close_left(self) -> None:
        """Close the channels of earlier subscriptions: an acknowledgement on a closed one would end the connection."""
        while self._left and not self._is_busy():
            await self._left.pop().close()

    async def _note(self, message: AbstractIncomingMessage) -> None:
        self._came = True
        await self._take(message)

    async def _watch(self, session: Session) -> None:
        hush()
        while session.stands and not self._stopped:
            self._came = False
            await asyncio.sleep(self._renew_after)
            if self._came or self._is_busy():
                continue
            try:
                await bounded(self._renew(session), _OPENING)
            except Exception as error:
                session.end(error)
            self.renewed += 1
