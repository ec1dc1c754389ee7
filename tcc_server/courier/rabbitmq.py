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
from contextlib import ExitStack
from functools import partial

from aio_pika.abc import AbstractExchange, AbstractIncomingMessage
from google.protobuf.message import DecodeError

from tcc.amqp.link import HEARTBEAT, Link, Pauses, Session
from tcc.amqp.problems import explain
from tcc.amqp.publishing import Sent, publish
from tcc.amqp.topology import EXCHANGE, OUTCOMES, declare_command_queue, new_outcome_queue
from tcc.amqp.tracing import tags_of
from tcc.tracing import TraceParent, Tracing
from tcc.v1.participant_pb2 import Command, CommandList, Outcome, OutcomeList
from tcc_server.caller.commands import not_configured
from tcc_server.courier.seam import OutcomeSink

_log = logging.getLogger(__name__)

LIST_ITEMS = 512
LIST_BYTES = 1024 * 1024
_HEAD = 32

_Branch = tuple[str, str, str]


class RabbitCourier:
    """Carries commands through RabbitMQ.

    Args:
        url: `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
        replica: this replica's id; names its queue of outcomes.
        participants: those that are configured; a command for any other is answered at once.
        answer_wait: seconds that the engine waits for an outcome, given how often it waited in vain before.
        publish_timeout: seconds after which a publish that the broker did not confirm is unknown.

    Attributes:
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
        publish_timeout: float = 5.0,
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
        self._exchange: AbstractExchange | None = None
        self._reply_to = ""
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

    async def publish(self, session: Session, participant: str, commands: Sequence[Command]) -> Sent:
        """Publish one list."""
        exchange = self._exchange
        if exchange is None or not session.stands:
            return Sent.NOT_SENT
        self.published += 1
        self.commands_published += len(commands)
        with ExitStack() as spans:
            body = CommandList(commands=[self._traced(command, spans) for command in commands]).SerializeToString()
            sent = await publish(
                session,
                exchange,
                participant,
                body,
                timeout=self._publish_timeout,
                reply_to=self._reply_to,
                time_to_live=max(self._answer_wait(max(0, command.attempt - 1)) for command in commands),
            )
        if sent is Sent.CONFIRMED:
            self._publishing.works()
        return sent

    def _traced(self, command: Command, spans: ExitStack) -> Command:
        """The command with the span that sends it as the parent of what it causes."""
        parent = TraceParent(command.traceparent, command.tracestate)
        span = spans.enter_context(self._tracing.sent(EXCHANGE, command.participant, parent, tags_of(command)))
        if span.trace == parent:
            return command
        sent = Command()
        sent.CopyFrom(command)  # it may leave again, from the same parent
        sent.traceparent, sent.tracestate = span.trace
        return sent

    async def _set_up_publishing(self, session: Session) -> None:
        self._exchange = await session.channel.declare_exchange(EXCHANGE, "direct", durable=True)
        for line in self._lines.values():
            line.wake()  # declares its queue, so that what is wrong with it is said before it is needed

    async def _set_up_consuming(self, session: Session) -> None:
        name = new_outcome_queue(self._replica)
        queue = await session.channel.declare_queue(name, exclusive=True, auto_delete=True)
        await session.watch_consumers()
        # Without acknowledgements: the queue ends with its connection, so there is nobody to deliver again to.
        await queue.consume(self._take, no_ack=True)
        self._reply_to = name
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
            with self._tracing.processed(OUTCOMES, TraceParent(outcome.traceparent), tags_of(outcome)):
                self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        if self._sink is not None:
            self._sink(outcome)


class _Line:
    """The commands of one participant that wait, by branch, and the task that publishes them while there are any."""

    def __init__(self, courier: RabbitCourier, participant: str) -> None:
        self._courier = courier
        self._participant = participant
        self._waiting: dict[_Branch, Command] = {}
        self._declared_on: Session | None = None
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
            self._publishing.cancel()
            await asyncio.gather(self._publishing, return_exceptions=True)

    async def _work(self) -> None:
        try:
            while True:
                session = await self._courier.ready()
                if not await self._declare(session):
                    continue
                if not self._waiting:
                    return
                await self._publish(session)
        finally:
            self._publishing = None

    async def _declare(self, session: Session) -> bool:
        """Make sure of the queue once a connection; False after a pause, if that failed."""
        if self._declared_on is session:
            return True
        try:
            async with asyncio.timeout(10):
                await declare_command_queue(session.connection, self._participant)
        except Exception as error:
            if session.stands:
                problem = explain(error, self._courier.url)
                if problem.text not in self._said:
                    self._said.add(problem.text)
                    _log.error("commands of %s wait: %s", self._participant, problem.text)
                await self._pause(lasting=problem.lasting)
            return False
        self._declared_on = session
        return True

    async def _publish(self, session: Session) -> None:
        batch = self._take()
        sent = await self._courier.publish(session, self._participant, list(batch.values()))
        match sent:
            case Sent.CONFIRMED:
                self._failures = 0
                self._said.clear()
            case Sent.UNROUTABLE | Sent.NOT_SENT:
                self._put_back(batch)
                if sent is Sent.UNROUTABLE:  # somebody deleted the queue
                    self._declared_on = None
                    await self._pause(lasting=False)
            case Sent.UNKNOWN:
                pass  # the engine sends again what stays unanswered

    def _take(self) -> dict[_Branch, Command]:
        batch: dict[_Branch, Command] = {}
        size = 0
        while self._waiting and len(batch) < LIST_ITEMS:
            branch = next(iter(self._waiting))
            size += self._waiting[branch].ByteSize() + 8
            if batch and size > LIST_BYTES:
                break
            batch[branch] = self._waiting.pop(branch)
        return batch

    def _put_back(self, batch: dict[_Branch, Command]) -> None:
        """In front, except where a later attempt has come meanwhile."""
        self._waiting = {**batch, **self._waiting}

    async def _pause(self, *, lasting: bool) -> None:
        pause = self._courier.pauses.after(self._failures, lasting=lasting)
        self._failures += 1
        await asyncio.sleep(pause)
