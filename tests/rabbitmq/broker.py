"""What tests do to a broker themselves, past the toolkit: raw messages, queues deleted, a look at what is in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity

from tcc.amqp.topology import command_queue


@asynccontextmanager
async def channel(url: str) -> AsyncIterator[AbstractChannel]:
    """A channel of the test's own."""
    connection = await aio_pika.connect(url)
    try:
        yield await connection.channel(on_return_raises=True)
    finally:
        await connection.close()


async def forget_queues(url: str, *participants: str) -> None:
    """Delete participants' queues, with what is in them."""
    async with channel(url) as own:
        for participant in participants:
            await own.queue_delete(command_queue(participant))


async def put(url: str, queue: str, body: bytes) -> None:
    """Publish bytes to a queue."""
    async with channel(url) as own:
        await own.default_exchange.publish(aio_pika.Message(body), queue)


async def depth(url: str, participant: str) -> int:
    """Messages that wait in a participant's queue; none where there is no queue."""
    async with channel(url) as own:
        try:
            queue = await own.declare_queue(command_queue(participant), passive=True)
        except ChannelNotFoundEntity:
            return 0
        return queue.declaration_result.message_count or 0
