"""The courier of production: lists of commands through RabbitMQ, outcomes back to this replica's own queue.

The engine never waits: commands go into an outbox, and leave when the connections stand, the broker takes messages, and
the participant's list before has been confirmed. Each participant has a line of its own, so a queue that is sick delays
nobody else. The outbox holds one command a branch, the latest, so it is never larger than what is open.

A publish whose end is unknown is not repeated here: the engine sends again what is not answered. What certainly did
not leave stays in the outbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage
from google.protobuf.message import DecodeError

from tcc.amqp.bounded import bounded
from tcc.amqp.link import HEARTBEAT, Link, Pauses, Session, end, hush
from tcc.amqp.problems import Problem, QueueGone, explain
from tcc.amqp.publishing import Sent, publish
from tcc.amqp.topology import EXCHANGE, OUTCOMES, declare_on, new_outcome_queue
from tcc.amqp.tracing import tags_of
from tcc.streams import listed
from tcc.tracing import TraceParent, Tracing
from tcc.v1.participant_pb2 import Command, Outcome, OutcomeList
from tcc_server.caller.commands import not_configured
from tcc_server.courier.seam import OutcomeSink

_log = logging.getLogger(__name__)

LIST_ITEMS = 512
LIST_BYTES = 1024 * 1024
_HEAD = 32
"""So much of what cannot be decoded is shown."""
_FRAMING = 8
"""Bytes that a command takes in its list beside its own."""
_OPENING, _CLOSING = 10.0, 1.0
"""Seconds for opening a channel and declaring a queue, and for saying goodbye to one."""

_Branch = tuple[str, str, str]


class RabbitCourier:
    """Carries commands through RabbitMQ.

    Args:
        url: `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
        replica: this replica's id; names its queue of outcomes.
        participants: those that are configured; a command for any other is answered at once.
        answer_wait: seconds that the engine waits for an outcome, given how often it waited in vain before.
        publish_timeout: seconds after which a publish that the broker did not confirm is unknown. Until then nothing
            more is published to that queue: more of the same would not help it.

    Attributes:
        reply_to: the queue that outcomes come back through; another with each connection, empty before the first.
        published: messages handed to the broker.
        commands_published: commands in them.
        undecodable: messages on the queue of outcomes that were none.
    """

    def __init__(
        self,
        url: str,
        tracing: Tracing | None = None,
        *,
        replica: str,
        participants: Collection[str],
        answer_wait: Callable[[int], float],
        publish_timeout: float = 30.0,
        heartbeat: int = HEARTBEAT,
        pauses: Pauses | None = None,
    ) -> None:
        self.url = url
        self.pauses = pauses or Pauses()
        self._tracing = tracing or Tracing()
        self._replica = replica
        self._answer_wait = answer_wait
        self._publish_timeout = publish_timeout
        link = partial(Link, url, heartbeat=heartbeat, pauses=pauses)
        self._publishing = link(name=f"manager {replica}: commands", set_up=self._set_up_publishing)
        self._consuming = link(name=f"manager {replica}: outcomes", set_up=self._set_up_consuming)
        self.reply_to = ""
        self._lines = {name: _Line(self, name) for name in participants}
        self._sink: OutcomeSink | None = None
        self.published = 0
        self.commands_published = 0
        self.undecodable = 0

    @property
    def waiting(self) -> int:
        """Commands in the outbox."""
        return sum(len(line) for line in self._lines.values())

    async def start(self, sink: OutcomeSink) -> None:
        """Begin to connect; a broker that is not there delays nothing but the commands."""
        self._sink = sink
        self._consuming.start()
        self._publishing.start()

    def send(self, commands: Sequence[Command]) -> None:
        """Put each command into its participant's line."""
        for command in commands:
            line = self._lines.get(command.participant)
            if line is not None:
                line.put(command)
            elif self._sink is not None:
                self._sink(not_configured(command))

    async def close(self) -> None:
        """Drop what waits, and let go of the connections."""
        self._sink = None
        await asyncio.gather(*(line.close() for line in self._lines.values()))
        await asyncio.gather(self._publishing.close(), self._consuming.close())

    async def ready(self) -> Session:
        """Waits until a message can leave and its outcomes can come back; gives the connection to publish on."""
        while True:
            await self._consuming.up()
            session = await self._publishing.up()
            if await session.unblocked() and self._consuming.session is not None:
                return session

    async def publish(self, exchange: AbstractExchange, participant: str, commands: Sequence[Command]) -> Sent:
        """Publish one list. Raises Exception: the channel was closed meanwhile; see `tcc.amqp.publishing`."""
        self.published += 1
        self.commands_published += len(commands)
        with ExitStack() as spans:
            attempts = {command.attempt for command in commands}
            sent = await publish(
                exchange,
                participant,
                listed([self._traced(command, spans) for command in commands]),
                timeout=self._publish_timeout,
                reply_to=self.reply_to,
                time_to_live=max(self._answer_wait(max(0, attempt - 1)) for attempt in attempts),
            )
        if sent is Sent.CONFIRMED:
            self._publishing.works()
        return sent

    def _traced(self, command: Command, spans: ExitStack) -> bytes:
        """The command, serialised, with the span that sends it as the parent of what it causes."""
        parent = TraceParent(command.traceparent, command.tracestate)
        if self._tracing.drops(parent):
            return command.SerializeToString()
        span = spans.enter_context(self._tracing.sent(EXCHANGE, command.participant, parent, tags_of(command)))
        sent = Command()
        sent.CopyFrom(command)  # it may leave again, from the same parent
        sent.traceparent, sent.tracestate = span.trace
        return sent.SerializeToString()

    async def _set_up_publishing(self, _: Session) -> None:
        for line in self._lines.values():
            line.wake()  # declares its queue, so that what is wrong with it is said before it is needed

    async def _set_up_consuming(self, session: Session) -> None:
        name = new_outcome_queue(self._replica)
        queue = await session.channel.declare_queue(name, exclusive=True, auto_delete=True)
        await session.watch_consumers(session.channel)
        # Without acknowledgements: the queue ends with its connection, so there is nobody to deliver again to.
        await queue.consume(self._take, no_ack=True)
        self.reply_to = name
        self._consuming.works()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        try:
            outcomes = OutcomeList.FromString(message.body).outcomes
        except DecodeError:
            self.undecodable += 1
            _log.error(
                "a message on the queue of outcomes is no list of them and is dropped: %d bytes, which begin with %s",
                len(message.body),
                message.body[:_HEAD].hex(" "),
            )
            return
        for outcome in outcomes:
            parent = TraceParent(outcome.traceparent)
            if self._tracing.drops(parent):
                self._tell(outcome)
                continue
            with self._tracing.processed(OUTCOMES, parent, tags_of(outcome)):
                self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        if self._sink is not None:
            self._sink(outcome)


class _Line:
    """The commands of one participant that wait, by branch, and the task that publishes them while there are any.

    It has a channel of its own: in the broker, a queue that does not answer holds up the channel that publishes to it.
    """

    def __init__(self, courier: RabbitCourier, participant: str) -> None:
        self._courier = courier
        self._participant = participant
        self._waiting: dict[_Branch, Command] = {}
        self._session: Session | None = None
        self._channel: AbstractChannel | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._failures = 0
        self._said: set[str] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, command: Command) -> None:
        self._waiting[command.namespace, command.gid, command.branch] = command
        self.wake()

    def wake(self) -> None:
        """Go to work, if nobody does."""
        if self._publishing is None:
            self._publishing = asyncio.create_task(self._work(), name=f"commands of {self._participant}")

    async def close(self) -> None:
        self._waiting.clear()
        if self._publishing is not None:
            await end(self._publishing)

    async def _work(self) -> None:
        hush()
        try:
            while True:
                session = await self._courier.ready()
                try:
                    channel = await self._opened(session)
                    if not self._waiting:
                        return
                    await self._publish(channel)
                except Exception as error:
                    await self._close_channel()
                    # Where the connection ended, the link says why. A queue so sick that to declare it ends the
                    # connection must not do so all the time, so this line pauses for itself in any case.
                    await self._pause(error, quietly=not session.stands)
        finally:
            self._publishing = None

    async def _opened(self, session: Session) -> AbstractChannel:
        """A channel of this connection, with the queue declared on it.

        Raises:
            Exception: what is wrong with the queue or the channel.
        """
        if self._channel is None or self._channel.is_closed or self._session is not session:
            self._session, self._channel = session, session.connection.channel(on_return_raises=True)
            await bounded(self._open(self._channel), _OPENING)
        return self._channel

    async def _open(self, channel: AbstractChannel) -> None:
        await channel.initialize()
        await declare_on(channel, self._participant)

    async def _publish(self, channel: AbstractChannel) -> None:
        exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        batch = self._take()
        sent = await self._courier.publish(exchange, self._participant, list(batch.values()))
        match sent:
            case Sent.CONFIRMED:
                self._failures = 0
                if self._said:
                    self._said.clear()
                    _log.warning("commands of %s leave again", self._participant)
            case Sent.UNROUTABLE:
                self._put_back(batch)
                raise QueueGone
            case Sent.REFUSED:
                self._put_back(batch)
                raise _Setback("RabbitMQ could not keep them: its log says why")
            case Sent.NOT_SENT:
                self._put_back(batch)
            case Sent.UNKNOWN:
                # The engine sends again what stays unanswered. On a new channel: in the broker, what follows on this
                # one would wait behind this message.
                raise _Setback(
                    "RabbitMQ does not confirm that it has them: has their queue a leader? If not, delete it"
                )

    def _take(self) -> dict[_Branch, Command]:
        batch: dict[_Branch, Command] = {}
        size = 0
        while self._waiting and len(batch) < LIST_ITEMS:
            branch = next(iter(self._waiting))
            size += self._waiting[branch].ByteSize() + _FRAMING
            if batch and size > LIST_BYTES:
                break
            batch[branch] = self._waiting.pop(branch)
        return batch

    def _put_back(self, batch: dict[_Branch, Command]) -> None:
        """In front, except where a later attempt has come meanwhile."""
        self._waiting = {**batch, **self._waiting}

    async def _close_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_initialized and not channel.is_closed:
            with suppress(Exception):  # it is given up, whatever it says to that
                await bounded(channel.close(), _CLOSING)

    async def _pause(self, error: Exception, *, quietly: bool) -> None:
        problem = Problem(str(error), False) if isinstance(error, _Setback) else explain(error, self._courier.url)
        if problem.what not in self._said and not quietly:
            self._said.add(problem.what)
            (_log.error if problem.lasting else _log.warning)(
                "commands of %s wait: %s", self._participant, problem.text
            )
        pause = self._courier.pauses.after(self._failures, problem)
        self._failures += 1
        await asyncio.sleep(pause)


class _Setback(Exception):
    """A publish that did not do; the message says why."""
