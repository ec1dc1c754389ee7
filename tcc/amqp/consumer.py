"""Consumes the commands of a participant, lets them be carried out, and publishes their outcomes.

Commands of a list are carried out side by side, each within its time; a list is acknowledged once all of its commands
are answered, so what dies with this process is delivered to another. An outcome that cannot be handed over is dropped:
the manager asks again. Nothing here counts deliveries: the manager's log is the timer, the queue only delivers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Final, Protocol, TypeAlias

import grpc
from aio_pika.abc import AbstractIncomingMessage
from google.protobuf.message import DecodeError

from tcc import wire
from tcc.amqp.bounded import bounded
from tcc.amqp.carrying import Branch, Carried, InHand, Outlet, Word, Words, outcome_of
from tcc.amqp.link import HEARTBEAT, Link, Pauses, Session, end
from tcc.amqp.publishing import Sent, publish
from tcc.amqp.subscription import Subscription
from tcc.amqp.topology import command_queue
from tcc.amqp.tracing import outcome_kind, tags_of
from tcc.batching import BatcherClosed
from tcc.streams import listed
from tcc.tracing import TraceParent, Tracing
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, CommandList, Outcome

_log = logging.getLogger("tcc.amqp")

Handle: TypeAlias = Callable[[Command, float], Awaitable[Outcome]]
"""Carries one command out within so many seconds; never raises."""

_HEAD: Final = 32
"""So much of what cannot be decoded is shown."""
_OVERTIME: Final = 1.0
"""Seconds that a handler gets, beyond its own time, to say itself that it ran out of it."""


class Together(Protocol):
    """Commands of one list that are carried out together."""

    def add_command(
        self, command: Command, timeout: float, span: AbstractContextManager[object], tag: InHand, /
    ) -> bool:
        """Takes a command along, if it may go with others.

        Args:
            command: as it came.
            timeout: seconds that it gets.
            span: in which its handler is to run.
            tag: comes back with its outcome.
        """

    async def run(self) -> None:
        """Carries them out."""


Join: TypeAlias = Callable[[Callable[[Sequence[tuple["InHand", Outcome]]], None]], Together | None]
"""Gives what a list's commands can be added to, and will tell their outcomes; None where each has to go by itself."""


class CommandConsumer:
    """Consumes from `start` to `close`, on one connection, and publishes on another.

    Args:
        url: `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
        participant: the name whose queue is consumed.
        handle: carries one command out.
        handler_timeout: seconds for one command, its wait for a turn included.
        messages_ahead: lists that the broker may hand over before the first of them is acknowledged.
        at_once: commands that are carried out side by side.
        join: for commands that may be carried out together.
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
        join: Join | None = None,
        publish_timeout: float = 10.0,
        renew_after: float = 30.0,
        heartbeat: int = HEARTBEAT,
        pauses: Pauses | None = None,
    ) -> None:
        self._participant = participant
        self._handle = handle
        self._join = join
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
        self._in_hand: dict[Branch, InHand] = {}
        self._outlets: dict[str, Outlet] = {}
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
        carried = Carried(outlet, asyncio.get_running_loop().time() + self._handler_timeout)
        try:
            await self._carry_all(commands, message.reply_to or "", carried)
        finally:
            if outlet is not None:
                outlet.users -= 1
                if not outlet.users:  # every connection of every manager has a name of its own: they must not pile up
                    del self._outlets[outlet.name]
        await _settle(message.ack())

    async def _carry_all(self, commands: Sequence[Command], reply_to: str, carried: Carried) -> None:
        loop = asyncio.get_running_loop()
        copies: list[asyncio.Future[Word | None]] = []
        together = None
        if self._join is not None and len(commands) > 1:
            together = self._join(partial(self._told, carried))
        left = carried.until - loop.time()
        for command in commands:
            branch: Branch = (reply_to, command.namespace, command.gid, command.branch, command.phase)
            first = self._in_hand.get(branch)
            if first is not None:  # its outcome answers this one too
                copies.append(first.copy())
                continue
            one = self._in_hand[branch] = InHand(self._in_hand, branch, command)
            carried.ones.append(one)
            if together is not None and self._goes_with(together, one, left):
                await self._turns.acquire()  # at once
                one.together = True
            else:
                carried.tasks.append(loop.create_task(self._carry(one, carried)))
        if together is not None and len(carried.tasks) < len(carried.ones):
            carried.tasks.append(loop.create_task(self._carry_together(together, carried)))
        limit = loop.call_at(carried.until + _OVERTIME, carried.run_out)
        try:
            # One after the other: those that are done by then cost nothing, and most end together.
            for task in carried.tasks:
                if not task.done():
                    await asyncio.wait((task,))
            for handed_over in carried.handed_over:
                with suppress(BatcherClosed):
                    await handed_over
            if copies:
                self._let_go(carried)  # one of them may be of this very list
            for copy in copies:
                word = await copy
                if word is not None:
                    await asyncio.wait((word,))
        finally:
            limit.cancel()
            running = [task for task in carried.tasks if not task.done()]
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
            self._let_go(carried)

    def _let_go(self, carried: Carried) -> None:
        """Ends what is left: a task that was cancelled before it began could not."""
        for one in carried.ones:
            if not one.over:
                if one.together:
                    self._turns.release()
                one.end(None)

    async def _carry(self, one: InHand, carried: Carried) -> None:
        word: Word | None = None
        try:
            outcome = await self._outcome(one.command, carried)
            if carried.outlet is not None:
                word = carried.outlet.batcher.put(outcome.SerializeToString())
                carried.handed_over.append(word)
        finally:
            one.end(word)

    def _goes_with(self, together: Together, one: InHand, left: float) -> bool:
        """Whether a command goes together with others: unless it is recorded, or has to wait for its turn."""
        command = one.command
        if self._turns.locked():
            return False
        try:
            passing = self._tracing.passing(TraceParent(command.traceparent, command.tracestate))
            return passing is not None and together.add_command(command, left, passing, one)
        except Exception:  # by itself it is told of its own error, and its list is answered
            return False

    async def _carry_together(self, together: Together, carried: Carried) -> None:
        failed = self._too_late
        try:
            await together.run()
        except asyncio.CancelledError:
            if not carried.ran_out():
                raise
        except Exception as error:  # a bug, as in `_outcome`
            failed = partial(self._bug, error=error)
        else:
            failed = partial(self._bug, error=RuntimeError("there is no outcome: the log says why"))
        left = [one for one in carried.ones if one.together and not one.over]
        if left:
            self._hand_over(carried, [(one, failed(one.command)) for one in left])

    def _told(self, carried: Carried, told: Sequence[tuple[InHand, Outcome]]) -> None:
        for one, outcome in told:
            outcome.traceparent = one.command.traceparent
        self._hand_over(carried, told)

    def _hand_over(self, carried: Carried, told: Sequence[tuple[InHand, Outcome]]) -> None:
        """Has outcomes of commands that went together published."""
        word: Word | None = None
        if carried.outlet is not None:
            words = Words(len(told))
            word = words.word
            carried.outlet.batcher.put_all([(outcome.SerializeToString(), words) for _, outcome in told])
            carried.handed_over.append(word)
        for one, _ in told:
            self._turns.release()
            one.end(word)

    async def _outcome(self, command: Command, carried: Carried) -> Outcome:
        turns = self._turns
        try:
            if turns.locked():
                async with asyncio.timeout_at(carried.until):
                    await turns.acquire()
            else:
                await turns.acquire()  # at once
        except TimeoutError:
            outcome = outcome_of(command, transaction_pb2.OUTCOME_KIND_BUSY, "too much is being worked on here")
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
            return self._too_late(command)
        except Exception as error:  # a bug: the list must be answered and acknowledged all the same
            return self._bug(command, error)
        finally:
            turns.release()

    def _too_late(self, command: Command) -> Outcome:
        text = f"not carried out within {self._handler_timeout:g} s"
        outcome = outcome_of(command, transaction_pb2.OUTCOME_KIND_RETRY, text)
        outcome.code = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        return outcome

    def _bug(self, command: Command, error: Exception) -> Outcome:
        _log.error("a command of %s could not be carried out", command.participant, exc_info=error)
        outcome = outcome_of(command, transaction_pb2.OUTCOME_KIND_RETRY, f"{type(error).__name__}: {error}"[:1024])
        outcome.code = grpc.StatusCode.INTERNAL.value[0]
        return outcome

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

    def _outlet(self, reply_to: str | None) -> Outlet | None:
        """Where the outcomes of one more list go; None where nobody wants them."""
        if not reply_to:
            return None
        outlet = self._outlets.get(reply_to)
        if outlet is None:
            outlet = self._outlets[reply_to] = Outlet(reply_to, partial(self._publish, reply_to))
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


async def _settle(word: Awaitable[None]) -> None:
    """Acknowledge or reject; where the connection is gone, the broker delivers the message again by itself."""
    try:
        await bounded(word, _OVERTIME)
    except Exception as error:
        _log.debug("a list was not acknowledged: %r", error)


async def _nothing(_: Session) -> None:
    """Publishing outcomes needs no declarations."""
