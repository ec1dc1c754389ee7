"""RabbitMQ: whether this user may do what managers, bridges and participants do, and whether the queues are right.

It changes nothing. Permissions are probed on names that nobody has: deleting a queue that is not there needs
`configure` on its name, getting from it `read`, and a mandatory message to nobody comes back once `write` was granted.
A queue that is there is declared once more with the arguments of the contract, which AMQP defines to change nothing and
which fails where it has others; there is no other way to ask for them. One that is not there is left to the manager.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import unquote, urlsplit

import aio_pika
from aiormq.abc import AbstractChannel
from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    PublishError,
)

from tcc.amqp.problems import explain, where
from tcc.amqp.topology import EXCHANGE, OUTCOMES, command_queue
from tcc_server.config import Config, Participant
from tcc_server.doctor.finding import Finding, ok, problem, warning

SUBJECT = "rabbitmq"

OPENING: Final = 10.0
"""Seconds to connect."""
ANSWER: Final = 5.0
"""Seconds for one question."""
_CLOSING: Final = 1.0

_Ask = Callable[[AbstractChannel], Awaitable[object]]
_BACKLOG = 1000


async def check_rabbitmq(config: Config) -> list[Finding]:
    """Look at the broker of a configuration."""
    if config.courier != "rabbitmq":
        return [ok(SUBJECT, "not used: courier = 'direct' calls participants by gRPC")]
    url = config.rabbitmq.url
    try:
        async with asyncio.timeout(OPENING):
            connection = await aio_pika.connect(url, client_properties={"connection_name": "tcc doctor"})
    except Exception as error:  # whatever it is, `explain` has words for it
        return [problem(SUBJECT, explain(error, url).text)]
    broker = _Broker(connection, url)
    try:
        findings = [ok(SUBJECT, f"RabbitMQ at {where(url)} lets user {broker.user!r} into vhost {broker.vhost!r}")]
        findings += await _permissions(broker)
        findings.append(await _exchange(broker))
        for name, participant in config.participants.items():
            findings += await _queue(broker, name, participant)
        findings += await _alarm(broker)  # last: a broker under an alarm answers nothing on this connection any more
    except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
        return [problem(SUBJECT, explain(error, url).text)]
    finally:
        with suppress(Exception):
            async with asyncio.timeout(_CLOSING):
                await connection.close()
    return findings


class _Broker:
    """A connection to ask on."""

    def __init__(self, connection: aio_pika.abc.AbstractConnection, url: str) -> None:
        self._connection = connection
        self.user = unquote(urlsplit(url).username or "guest")
        self.vhost = unquote(urlsplit(url).path[1:]) or "/"

    @property
    def grant(self) -> str:
        """What gives this user all that it needs."""
        return f"rabbitmqctl set_permissions -p {self.vhost} {self.user} '^tcc\\.' '^(tcc\\.|amq\\.default$)' '^tcc\\.'"

    async def ask(self, question: _Ask) -> object:
        """Ask on a channel of its own, which a refusal closes; gives the answer, or the error as a value.

        Raises:
            TimeoutError: no answer.
        """
        channel = self._connection.channel(on_return_raises=True)
        async with asyncio.timeout(ANSWER):
            await channel.initialize()
            try:
                return await question(await channel.get_underlay_channel())
            except (ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed, PublishError) as error:
                return error
            finally:
                if not channel.is_closed:
                    await channel.close()

    async def refuses(self, question: _Ask) -> bool:
        """Whether this user may not ask that."""
        return isinstance(await self.ask(question), ChannelAccessRefused)

    async def is_blocked(self) -> bool:
        """Whether the broker takes no messages on this connection now."""
        transport = self._connection.transport
        if transport is None:
            return False
        try:
            async with asyncio.timeout(0.5):
                await transport.ready()
        except TimeoutError:
            return True
        return False


async def _permissions(broker: _Broker) -> list[Finding]:
    nobody = f"doctor-{secrets.token_hex(6)}"
    commands, outcomes = f"{EXCHANGE}.{nobody}", f"{OUTCOMES}.{nobody}"
    # A queue of that name does not exist, so it cannot be deleted by mistake; empty and unused only, all the same.
    probes: Mapping[str, _Ask] = {
        f"configure {EXCHANGE}.*": lambda at: at.queue_delete(commands, if_unused=True, if_empty=True),
        f"configure {OUTCOMES}.*": lambda at: at.queue_delete(outcomes, if_unused=True, if_empty=True),
        f"read {EXCHANGE}.*": lambda at: at.basic_get(commands),
        f"read {OUTCOMES}.*": lambda at: at.basic_get(outcomes),
        # Unbinding what is not bound needs what binding does.
        f"write {EXCHANGE}.* and read {EXCHANGE}": lambda at: at.queue_unbind(commands, EXCHANGE, nobody),
    }
    refused = [right for right, question in probes.items() if await broker.refuses(question)]
    if refused:
        return [problem(SUBJECT, f"user {broker.user!r} lacks the permission to {', to '.join(refused)}", broker.grant)]
    return [ok(SUBJECT, f"user {broker.user!r} may declare, bind and consume {EXCHANGE}.* and {OUTCOMES}.*")]


async def _exchange(broker: _Broker) -> Finding:
    answer = await broker.ask(lambda at: at.exchange_declare(EXCHANGE, passive=True))
    if isinstance(answer, ChannelNotFoundEntity):
        return ok(SUBJECT, f"there is no exchange {EXCHANGE} yet; whoever comes first declares it")
    answer = await broker.ask(lambda at: at.exchange_declare(EXCHANGE, exchange_type="direct", durable=True))
    if isinstance(answer, ChannelPreconditionFailed):
        return problem(
            SUBJECT,
            f"the exchange {EXCHANGE} is not direct and durable ({answer})",
            "delete it: it is declared as it must be, and no command is lost, each is sent until it is answered",
        )
    if isinstance(answer, Exception):
        return problem(SUBJECT, f"the exchange {EXCHANGE} cannot be looked at ({answer})", broker.grant)
    return ok(SUBJECT, f"the exchange {EXCHANGE} is as it must be")


async def _queue(broker: _Broker, name: str, participant: Participant) -> list[Finding]:
    subject, queue = f"queue {command_queue(name)}", command_queue(name)
    found = await broker.ask(lambda at: at.queue_declare(queue, passive=True))
    if isinstance(found, ChannelNotFoundEntity):
        return [ok(subject, "it is not there yet; whoever comes first declares it")]
    if isinstance(found, Exception):
        return [problem(subject, f"it cannot be looked at ({found})", broker.grant)]
    counts = (int(getattr(found, "message_count", 0) or 0), int(getattr(found, "consumer_count", 0) or 0))
    return [await _arguments(broker, subject, queue), *_consumers(subject, *counts, participant)]


async def _arguments(broker: _Broker, subject: str, queue: str) -> Finding:
    answer = await broker.ask(lambda at: at.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"}))
    if isinstance(answer, ChannelPreconditionFailed):
        what = re.sub(r"^PRECONDITION_FAILED - ", "", str(answer))
        return problem(
            subject,
            f"it is no quorum queue without further arguments ({what}): nobody can declare it, so commands wait",
            f"rabbitmqctl delete_queue {queue} -p {broker.vhost}; it is declared as it must be, and no command is "
            "lost, each is sent until it is answered",
        )
    if isinstance(answer, Exception):
        return warning(subject, f"its type is not known: it may not be declared by this user ({answer})", broker.grant)
    return ok(subject, "it is a quorum queue, and has no other argument")


def _consumers(subject: str, messages: int, consumers: int, participant: Participant) -> list[Finding]:
    if consumers == 0:
        what = (
            "start `tcc bridge` with this configuration"
            if participant.bridged
            else "start the participant, with rabbitmq= in its ParticipantServer"
        )
        return [warning(subject, f"nobody consumes from it, and {messages} messages wait", what)]
    if messages >= _BACKLOG:
        return [
            warning(
                subject,
                f"{messages} messages wait for {consumers} consumers",
                "look into the participant's log; where it is slow but well, start more instances",
            )
        ]
    return [ok(subject, f"{consumers} consume from it, {messages} messages wait")]


async def _alarm(broker: _Broker) -> list[Finding]:
    nobody = f"doctor-{secrets.token_hex(6)}"
    try:
        answers = {exchange: await broker.ask(_message(exchange, nobody)) for exchange in (EXCHANGE, "")}
        blocked = await broker.is_blocked()
    except TimeoutError:
        answers, blocked = {}, True
    if blocked:
        return [
            problem(
                SUBJECT,
                "it is short of memory or disk and takes no messages: commands wait in the log",
                "rabbitmq-diagnostics alarms names what is short; free some, it goes on by itself",
            )
        ]
    refused = [exchange or "amq.default" for exchange, got in answers.items() if isinstance(got, ChannelAccessRefused)]
    if refused:
        return [problem(SUBJECT, f"user {broker.user!r} may not publish to {' and '.join(refused)}", broker.grant)]
    return [ok(SUBJECT, f"it takes messages, and user {broker.user!r} may publish them")]


def _message(exchange: str, nobody: str) -> _Ask:
    return lambda at: at.basic_publish(b"", exchange=exchange, routing_key=nobody, mandatory=True)
