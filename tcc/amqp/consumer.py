"""Consumes the commands of a participant, lets them be carried out, and publishes their outcomes.

Commands of a list are carried out side by side, each within its time; a list is acknowledged once all of its commands
are answered, so what dies with this process is delivered to another. An outcome that cannot be handed over is dropped:
the manager asks again. Nothing here counts deliveries: the manager's log is the timer, the queue only delivers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

import grpc
from aio_pika.abc import AbstractIncomingMessage
from google.protobuf.message import DecodeError

from tcc import wire
from tcc.amqp.bounded import bounded
from tcc.amqp.link import HEARTBEAT, Link, Pauses, Session, end
from tcc.amqp.publishing import Sent, publish
from tcc.amqp.subscription import Subscription
from tcc.amqp.topology import command_queue
from tcc.amqp.tracing import outcome_kind, tags_of
from tcc.batching import Batcher, BatcherClosed
from tcc.streams import listed
from tcc.tracing import TraceParent, Tracing
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, CommandList, Outcome

_log = logging.getLogger("tcc.amqp")

Handle: TypeAlias = Callable[[Command, float], Awaitable[Outcome]]
"""Carries one command out within so many seconds; never raises."""

_Branch: TypeAlias = tuple[str, str, str, str, int]
_Word: TypeAlias = "asyncio.Future[None]"
"""That an outcome was handed over, or given up."""

_LIST_ITEMS: Final = 512
_LIST_BYTES: Final = 1024 * 1024
_HEAD: Final = 32
"""So much of what cannot be decoded is shown."""
_OVERTIME: Final = 1.0
"""Seconds that a handler gets, beyond its own time, to say itself that it ran out of it."""


class CommandConsumer:
    """Consumes from `start` to `close`, on one connection, and publishes on another.

    Args:
        url: `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
        participant: the name whose queue is consumed.
        handle: carries one command out.
        handler_timeout: seconds for one command, its wait for a turn included.
        messages_ahead: lists that the broker may hand over before the first of them is acknowledged.
        at_once: commands that are carried out side by side.
        publish_timeout: seconds for handing an outcome over.
        renew_after: seconds without a command after which the subscription is begun anew; see `Subscription`.

    Attributes:
        messages: lists that arrived.
        undecodable: messages that were none.
        published: messages with outcomes that left.
        unclaimed: outcomes whose manager was gone, or that could not be handed over.
    """

    def __init__(
        self,
        url: str,
        participant: str,
        handle: Handle,
        tracing: Tracing | None = None,
        *,
        handler_timeout: float = 30.0,
        messages_ahead: int = 16,
        at_once: int = 256,
        publish_timeout: float = 10.0,
        renew_after: float = 30.0,
        heartbeat: int = HEARTBEAT,
        pauses: Pauses | None = None,
    ) -> None:
        self._participant = participant
        self._handle = handle
        self._tracing = tracing or Tracing()
        self._handler_timeout = handler_timeout
        self._turns = asyncio.Semaphore(at_once)
        self._publish_timeout = publish_timeout
        link = partial(Link, url, heartbeat=heartbeat, pauses=pauses)
        self._consuming = link(name=f"{participant}: commands", set_up=self._consume)
        self._publishing = link(name=f"{participant}: outcomes", set_up=_nothing)
        self._draining = False
        self._lists: set[asyncio.Task[None]] = set()
        self._subscription = Subscription(
            participant,
            self._take,
            lambda: bool(self._lists),
            messages_ahead=messages_ahead,
            renew_after=renew_after,
        )
        self._in_hand: dict[_Branch, asyncio.Task[_Word | None]] = {}
        self._outlets: dict[str, _Outlet] = {}
        self.messages = 0
        self.undecodable = 0
        self.published = 0
        self.unclaimed = 0

    @property
    def renewed(self) -> int:
        """How often the subscription was begun anew."""
        return self._subscription.renewed

    @property
    def opened(self) -> int:
        """How often there was a connection to consume on."""
        return self._consuming.opened

    def start(self) -> None:
        """Begin to connect; returns at once, whether the broker is there or not."""
        self._publishing.start()
        self._consuming.start()

    async def ready(self) -> None:
        """Waits until commands are consumed."""
        await self._consuming.up()

    async def drain(self, grace: float) -> None:
        """Take no more commands, and wait for those in hand.

        Args:
            grace: seconds that they get.
        """
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.1, grace)):
                await self._subscription.stop()
        if self._lists:
            await asyncio.wait(self._lists, timeout=grace)

    async def close(self) -> None:
        """Let go of everything. What was not acknowledged is delivered again, here or elsewhere. Idempotent."""
        self._draining = True
        await end(*self._lists)
        await asyncio.gather(self._consuming.close(), self._publishing.close())
        await self._subscription.stop()

    async def _consume(self, session: Session) -> None:
        await self._subscription.begin(session)
        self._consuming.works()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        # In a task of our own: the library stops its tasks with the connection, but a handler that began should end.
        if self._draining:
            return
        self.messages += 1
        task = asyncio.create_task(self._carry_list(message))
        self._lists.add(task)
        task.add_done_callback(self._lists.discard)

    async def _carry_list(self, message: AbstractIncomingMessage) -> None:
        try:
            commands = CommandList.FromString(message.body).commands
        except DecodeError:
            self.undecodable += 1
            _log.error(
                "a message on %s is no list of commands and is dropped: %d bytes, which begin with %s",
                message.routing_key,
                len(message.body),
                message.body[:_HEAD].hex(" "),
            )
            await _settle(message.reject(requeue=False))
            return
        outlet = self._outlet(message.reply_to)
        carried = _Carried(outlet, asyncio.get_running_loop().time() + self._handler_timeout)
        try:
            await self._carry_all(commands, message.reply_to or "", carried)
        finally:
            if outlet is not None:
                outlet.users -= 1
                if not outlet.users:  # every connection of every manager has a name of its own: they must not pile up
                    del self._outlets[outlet.name]
        await _settle(message.ack())

    async def _carry_all(self, commands: Iterable[Command], reply_to: str, carried: _Carried) -> None:
        loop = asyncio.get_running_loop()
        elsewhere: list[asyncio.Task[_Word | None]] = []
        in_hand = self._in_hand
        for command in commands:
            branch: _Branch = (reply_to, command.namespace, command.gid, command.branch, command.phase)
            task = in_hand.get(branch)
            if task is not None:  # its outcome answers this one too
                elsewhere.append(task)
                continue
            task = in_hand[branch] = loop.create_task(self._carry(command, branch, carried))
            carried.tasks.append(task)
        limit = loop.call_at(carried.until + _OVERTIME, carried.run_out)
        try:
            # One after the other: those that are done by then cost nothing, and most end together.
            for task in carried.tasks:
                if not task.done():
                    await asyncio.wait((task,))
            for handed_over in carried.handed_over:
                with suppress(BatcherClosed):
                    await handed_over
            for task in elsewhere:
                await asyncio.wait((task,))
                word = None if task.cancelled() or task.exception() is not None else task.result()
                if word is not None:
                    await asyncio.wait((word,))
        finally:
            limit.cancel()
            left = [task for task in carried.tasks if not task.done()]
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
            if left or carried.late:  # one that was cancelled before it began could not say that it is over
                for branch in [branch for branch, task in in_hand.items() if task in carried.tasks]:
                    del in_hand[branch]

    async def _carry(self, command: Command, branch: _Branch, carried: _Carried) -> _Word | None:
        try:
            outcome = await self._outcome(command, carried)
            if carried.outlet is None:
                return None
            word = carried.outlet.batcher.put(outcome.SerializeToString())
            carried.handed_over.append(word)
            return word
        finally:
            self._in_hand.pop(branch, None)

    async def _outcome(self, command: Command, carried: _Carried) -> Outcome:
        turns = self._turns
        try:
            if turns.locked():
                async with asyncio.timeout_at(carried.until):
                    await turns.acquire()
            else:
                await turns.acquire()  # at once
        except TimeoutError:
            outcome = _outcome_of(command, transaction_pb2.OUTCOME_KIND_BUSY, "too much is being worked on here")
            outcome.retry_after.CopyFrom(wire.seconds(1.0))
            return outcome
        try:
            left = carried.until - asyncio.get_running_loop().time()
            parent = TraceParent(command.traceparent, command.tracestate)
            passing = self._tracing.passing(parent)
            if passing is None:
                return await self._traced(command, parent, left)
            with passing:
                outcome = await self._handle(command, left)
            outcome.traceparent = parent.parent
            return outcome
        except asyncio.CancelledError:
            if not carried.ran_out():
                raise
            text = f"not carried out within {self._handler_timeout:g} s"
            outcome = _outcome_of(command, transaction_pb2.OUTCOME_KIND_RETRY, text)
            outcome.code = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            return outcome
        except Exception as error:  # a bug: the list must be answered and acknowledged all the same
            _log.exception("a command of %s could not be carried out", command.participant)
            outcome = _outcome_of(
                command, transaction_pb2.OUTCOME_KIND_RETRY, f"{type(error).__name__}: {error}"[:1024]
            )
            outcome.code = grpc.StatusCode.INTERNAL.value[0]
            return outcome
        finally:
            turns.release()

    async def _traced(self, command: Command, parent: TraceParent, left: float) -> Outcome:
        with self._tracing.processed(command_queue(command.participant), parent, tags_of(command)) as span:
            command.traceparent, command.tracestate = span.trace
            outcome = await self._handle(command, left)
            outcome.traceparent = span.trace.parent
            kind = outcome_kind(outcome)
            span.say("tcc.outcome", kind)
            if outcome.kind == transaction_pb2.OUTCOME_KIND_RETRY:
                span.failed(kind, outcome.message)
            return outcome

    def _outlet(self, reply_to: str | None) -> _Outlet | None:
        """Where the outcomes of one more list go; None where nobody wants them."""
        if not reply_to:
            return None
        outlet = self._outlets.get(reply_to)
        if outlet is None:
            outlet = self._outlets[reply_to] = _Outlet(reply_to, partial(self._publish, reply_to))
        outlet.users += 1
        return outlet

    async def _publish(self, reply_to: str, outcomes: Sequence[bytes]) -> list[Exception | None]:
        body = listed(outcomes)
        sent = Sent.NOT_SENT
        with suppress(TimeoutError):
            async with asyncio.timeout(self._publish_timeout):
                while sent is Sent.NOT_SENT:
                    session = await self._publishing.up()
                    if not await session.unblocked():
                        continue
                    self.published += 1
                    sent = await self._publish_on(session, reply_to, body)
        if sent is not Sent.CONFIRMED:
            self.unclaimed += len(outcomes)
        else:
            self._publishing.works()
        return [None] * len(outcomes)

    async def _publish_on(self, session: Session, reply_to: str, body: bytes) -> Sent:
        try:
            return await publish(session.channel.default_exchange, reply_to, body, timeout=self._publish_timeout)
        except Exception as error:
            session.end(error)
            return Sent.UNKNOWN


class _Outlet:
    """Outcomes, serialised, on their way to one queue, and how many lists have some for it."""

    def __init__(self, name: str, send: Callable[[Sequence[bytes]], Awaitable[list[Exception | None]]]) -> None:
        self.name = name
        self.users = 0
        self.batcher: Batcher[bytes, None] = Batcher(send, max_items=_LIST_ITEMS, max_bytes=_LIST_BYTES, size_of=len)


class _Carried:
    """A list that is being carried out.

    Args:
        outlet: where its outcomes go; None where nobody wants them.
        until: when its handlers are to be done, on the loop's clock.
    """

    __slots__ = ("handed_over", "late", "outlet", "tasks", "until")

    def __init__(self, outlet: _Outlet | None, until: float) -> None:
        self.outlet = outlet
        self.until = until
        self.tasks: list[asyncio.Task[_Word | None]] = []
        self.handed_over: list[_Word] = []
        self.late = False

    def run_out(self) -> None:
        """Its time is over: what is not done is stopped."""
        self.late = True
        for task in self.tasks:
            task.cancel()

    def ran_out(self) -> bool:
        """Whether that, and nothing else, has cancelled the task that asks."""
        task = asyncio.current_task()
        return self.late and task is not None and task.uncancel() == 0


def _outcome_of(command: Command, kind: transaction_pb2.OutcomeKind.ValueType, message: str) -> Outcome:
    return Outcome(
        namespace=command.namespace,
        gid=command.gid,
        branch=command.branch,
        phase=command.phase,
        attempt=command.attempt,
        kind=kind,
        code=grpc.StatusCode.UNAVAILABLE.value[0],
        message=message,
    )


async def _settle(word: Awaitable[None]) -> None:
    """Acknowledge or reject; where the connection is gone, the broker delivers the message again by itself."""
    try:
        await bounded(word, _OVERTIME)
    except Exception as error:
        _log.debug("a list was not acknowledged: %r", error)


async def _nothing(_: Session) -> None:
    """Publishing outcomes needs no declarations."""
