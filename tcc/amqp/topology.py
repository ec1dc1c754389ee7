"""The exchange and the queues, by CONTRACT.md, "RabbitMQ". Whoever needs one declares it, on either side.

A queue has `x-queue-type: quorum` and no other argument, on all versions: a queue can never be declared with other
arguments than it has.
"""

from __future__ import annotations

import secrets
from typing import Final

from aio_pika.abc import AbstractChannel, AbstractQueue

EXCHANGE: Final = "tcc.commands"
OUTCOMES: Final = "tcc.outcomes"
"""What the queues of outcomes are called in traces; each has a name of its own."""


def command_queue(participant: str) -> str:
    """The name of a participant's queue; its routing key is the participant's name."""
    return f"{EXCHANGE}.{participant}"


def new_outcome_queue(replica: str) -> str:
    """A name that no connection had before: a dead connection's exclusive queue may stay locked for half a minute."""
    return f"{OUTCOMES}.{replica}.{secrets.token_hex(4)}"


async def declare_on(channel: AbstractChannel, participant: str) -> AbstractQueue:
    """Make sure that a participant's commands have somewhere to wait: exchange, queue and binding. Gives the queue.

    Raises:
        Exception: the broker closed the channel, as it does where the queue has other arguments; see
            `tcc.amqp.problems`.
    """
    await channel.declare_exchange(EXCHANGE, "direct", durable=True)
    queue = await channel.declare_queue(command_queue(participant), durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(EXCHANGE, participant)
    return queue
