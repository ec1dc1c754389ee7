"""One publish: persistent, mandatory, confirmed, within its time, and its end as a value."""

from __future__ import annotations

import uuid
from enum import Enum

import aio_pika
from aio_pika.abc import AbstractExchange
from aio_pika.exceptions import ChannelInvalidStateError, DeliveryError, PublishError

from tcc.amqp.bounded import bounded


class Sent(Enum):
    """What became of a publish."""

    CONFIRMED = "the broker has it"
    UNROUTABLE = "the broker gave it back: there is no such queue"
    REFUSED = "the broker says that it could not keep it"
    NOT_SENT = "the channel had been closed before"
    UNKNOWN = "it may be in the queue or not; publishing it again is safe"


async def publish(
    exchange: AbstractExchange,
    routing_key: str,
    body: bytes,
    *,
    timeout: float,
    reply_to: str | None = None,
    time_to_live: float | None = None,
) -> Sent:
    """Publish one message, and wait for the broker's word.

    Args:
        exchange: on a channel that confirms and gives back.
        body: a protobuf message.
        timeout: seconds to wait.
        reply_to: the queue for outcomes.
        time_to_live: seconds after which the broker may drop it.

    Raises:
        Exception: the channel was closed meanwhile, and why; what became of the message is unknown.
    """
    message = aio_pika.Message(
        body,
        content_type="application/x-protobuf",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        # Two publishes in flight with one id would get each other's results.
        message_id=uuid.uuid4().hex,
        reply_to=reply_to,
        expiration=time_to_live,
    )
    try:
        await bounded(exchange.publish(message, routing_key, mandatory=True), timeout)
    except PublishError:
        return Sent.UNROUTABLE
    except ChannelInvalidStateError:
        return Sent.NOT_SENT
    except DeliveryError:
        return Sent.REFUSED
    except TimeoutError:
        return Sent.UNKNOWN
    return Sent.CONFIRMED
