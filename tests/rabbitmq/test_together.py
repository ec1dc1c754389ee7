"""Commands of a list that are carried out together: what is published, and when the list is acknowledged.

Without a broker: messages come from the test, and what would be published goes to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

import tcc
from tcc.amqp import carrying as carrying_module, consumer as consumer_module
from tcc.amqp.carrying import InHand
from tcc.amqp.consumer import CommandConsumer
from tcc.fence import Phase
from tcc.participant._together import CommandsTogether
from tcc.tracing import TraceParent, Tracing
from tcc.v1.participant_pb2 import Command, CommandList, Outcome, OutcomeList
from tests.participant.desk import Batchable, CountingFence, Desk
from tests.participant.scripted import Branch, Direct, make_server
from tests.rabbitmq.ends import BUSY, DONE, RETRY


class Delivery:
    """A message as a consumer gets it, that notes its acknowledgement."""

    routing_key = "p"
    reply_to = "outcomes"

    def __init__(self, *commands: Command) -> None:
        self.body = CommandList(commands=commands).SerializeToString()
        self.acknowledged = asyncio.Event()

    async def ack(self) -> None:
        self.acknowledged.set()


class Carrying:
    """A participant and its consumer.

    Attributes:
        published: outcomes, message by message.
        lets_go: outcomes are handed over; while it is cleared, none is.
    """

    def __init__(self, server: tcc.ParticipantServer, fence: CountingFence, desk: Desk) -> None:
        self.server = server
        self.fence = fence
        self.desk = desk
        self.published: list[list[Outcome]] = []
        self.lets_go = asyncio.Event()
        self.lets_go.set()

    @asynccontextmanager
    async def consumer(self, **options: Any) -> AsyncIterator[CommandConsumer]:
        runtime = self.server.runtime

        def join(tell: Callable[[Sequence[tuple[InHand, Outcome]]], None]) -> CommandsTogether[InHand]:
            assert runtime.shares is not None
            return CommandsTogether(runtime, runtime.shares, tell, peer="rabbitmq")

        async def handle(command: Command, timeout: float) -> Outcome:
            return await runtime.command(command, timeout=timeout)

        async def publish(_reply_to: str, outcomes: Sequence[bytes]) -> list[Exception | None]:
            self.published.append([Outcome.FromString(outcome) for outcome in outcomes])
            await self.lets_go.wait()
            return [None] * len(outcomes)

        options = {"join": join, **options}
        consuming = CommandConsumer("amqp://nobody@127.0.0.1:1/", "p", handle, **options)
        consuming._publish = publish  # type: ignore[assignment, method-assign]  # stands in for the broker
        yield consuming
        await consuming.close()

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """All that were published, by gid."""
        return {outcome.gid: outcome for message in self.published for outcome in message}


@pytest.fixture
def scripted() -> Batchable:
    return Batchable()


@pytest.fixture
async def carrying(scripted: Batchable, tmp_path: Path) -> AsyncIterator[Carrying]:
    fence, desk = CountingFence(f"sqlite+aiosqlite:///{tmp_path}/service.db"), Desk()
    await fence.create_tables()
    server = make_server(scripted, fence, lock=desk)
    way = Direct(server)
    await asyncio.gather(*(way.attempt(Branch(f"g-{number}")) for number in range(20)))
    fence.lists.clear()
    desk.taken.clear()
    yield Carrying(server, fence, desk)
    await fence.close()


def confirms(number: int, attempt: int = 1) -> list[Command]:
    return [Branch(f"g-{count}").command(Phase.CONFIRM, attempt) for count in range(number)]


async def take(consuming: CommandConsumer, *commands: Command) -> Delivery:
    delivery = Delivery(*commands)
    await consuming._take(delivery)  # type: ignore[arg-type]  # all of a message that it looks at
    return delivery


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  it says nothing by itself
            await asyncio.sleep(0.005)


def kinds(outcomes: dict[str, Outcome]) -> list[int]:
    return [outcome.kind for _, outcome in sorted(outcomes.items())]


async def test_a_list_is_carried_out_and_answered_together(carrying: Carrying) -> None:
    commands = confirms(9)
    parent = TraceParent("00-" + "a1" * 16 + "-" + "b2" * 8 + "-00")
    for command in commands:
        command.traceparent = parent.parent
    async with carrying.consumer() as consuming:
        await (await take(consuming, *commands)).acknowledged.wait()

    assert [len(message) for message in carrying.published] == [9]
    assert kinds(carrying.outcomes) == [DONE] * 9
    assert {outcome.traceparent for outcome in carrying.outcomes.values()} == {parent.parent}
    assert (carrying.desk.taken, carrying.fence.lists, carrying.desk.held) == ([9], [9], set())


async def test_a_list_is_acknowledged_once_all_its_outcomes_were_handed_over(carrying: Carrying) -> None:
    carrying.lets_go.clear()
    async with carrying.consumer() as consuming:
        delivery = await take(consuming, *confirms(3))
        await until(lambda: len(carrying.published) == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not delivery.acknowledged.is_set()
        carrying.lets_go.set()
        await delivery.acknowledged.wait()


async def test_outcomes_nobody_waits_for_are_not_published_and_the_list_is_acknowledged(carrying: Carrying) -> None:
    async with carrying.consumer() as consuming:
        delivery = Delivery(*confirms(3))
        delivery.reply_to = ""
        await consuming._take(delivery)  # type: ignore[arg-type]  # as above
        await delivery.acknowledged.wait()
    assert not carrying.published
    assert carrying.fence.lists == [3]


async def test_a_copy_of_one_that_goes_with_others_waits_for_the_same_outcome(
    carrying: Carrying, scripted: Batchable
) -> None:
    carrying.lets_go.clear()
    async with carrying.consumer() as consuming:
        first = await take(consuming, *confirms(3), *confirms(1))
        second = await take(consuming, *confirms(2, attempt=2))
        await until(lambda: len(carrying.published) == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not second.acknowledged.is_set()
        carrying.lets_go.set()
        await first.acknowledged.wait()
        await second.acknowledged.wait()
    assert scripted.runs[Phase.CONFIRM] == 3
    assert sum(len(message) for message in carrying.published) == 3


async def test_those_beyond_the_turns_go_when_there_is_one(carrying: Carrying) -> None:
    async with carrying.consumer(at_once=2) as consuming:
        for attempt in (1, 2):
            await (await take(consuming, *confirms(5, attempt))).acknowledged.wait()
            assert kinds(carrying.outcomes) == [DONE] * 5
            assert max(carrying.desk.taken) == 2
            carrying.published.clear()


@pytest.mark.parametrize("waits", ["for the lock", "in their handlers"])
async def test_what_is_not_over_in_time_is_to_be_repeated_and_its_turns_are_free(
    carrying: Carrying, scripted: Batchable, waits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_OVERTIME", 0.1)

    async def stays(request: object, context: object) -> Empty:
        if tcc.branch().attempt == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # as by the end of its own time
                await asyncio.Event().wait()
        return Empty()

    if waits == "for the lock":
        carrying.desk.answers.clear()
    else:
        scripted.scripts[Phase.CONFIRM] = stays
    async with carrying.consumer(handler_timeout=0.1, at_once=3) as consuming:
        await (await take(consuming, *confirms(3))).acknowledged.wait()
        assert kinds(carrying.outcomes) == [RETRY] * 3
        assert {outcome.code for outcome in carrying.outcomes.values()} == {grpc.StatusCode.DEADLINE_EXCEEDED.value[0]}
        assert not carrying.desk.held
        carrying.desk.answers.set()
        carrying.published.clear()
        await (await take(consuming, *confirms(3, attempt=2))).acknowledged.wait()
        assert kinds(carrying.outcomes) == [DONE] * 3


async def test_one_that_is_busy_is_told_so_and_the_others_do_not_wait_for_it(carrying: Carrying) -> None:
    carrying.desk.elsewhere["{default/g-1}:0"] = 7.0
    async with carrying.consumer() as consuming:
        await (await take(consuming, *confirms(3))).acknowledged.wait()
    assert kinds(carrying.outcomes) == [DONE, BUSY, DONE]
    assert carrying.outcomes["g-1"].retry_after.seconds == 7


async def test_closed_it_stops_what_it_has_and_leaves_the_list_to_others(
    carrying: Carrying, scripted: Batchable
) -> None:
    under_way = 0

    async def hangs(request: object, context: object) -> Empty:
        nonlocal under_way
        under_way += 1
        try:
            await asyncio.Event().wait()
        finally:
            under_way -= 1
        return Empty()

    scripted.scripts[Phase.CONFIRM] = hangs
    async with carrying.consumer() as consuming:
        delivery = await take(consuming, *confirms(3))
        await until(lambda: under_way == 1)
        await consuming.close()
        assert (under_way, carrying.desk.held, carrying.published) == (0, set(), [])
        assert not delivery.acknowledged.is_set()


async def test_closed_as_a_list_begins_it_holds_no_turn_and_no_lock(carrying: Carrying) -> None:
    async with carrying.consumer(at_once=3) as consuming:
        await take(consuming, *confirms(3))
        await asyncio.sleep(0)  # it has been read, and nothing more
        await consuming.close()
        assert not carrying.desk.held
        assert not consuming._in_hand
        assert not consuming._turns.locked()


async def test_a_bug_is_said_of_each_that_it_befell_and_the_list_is_acknowledged(
    carrying: Carrying, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(keys: Sequence[str], ttl: float) -> Any:
        raise KeyError("x")

    async with carrying.consumer(at_once=3) as consuming:
        with monkeypatch.context() as broke:
            broke.setattr(carrying.desk, "acquire_all", broken)
            await (await take(consuming, *confirms(3))).acknowledged.wait()
        assert kinds(carrying.outcomes) == [RETRY] * 3
        assert {outcome.code for outcome in carrying.outcomes.values()} == {grpc.StatusCode.INTERNAL.value[0]}
        await (await take(consuming, *confirms(3, attempt=2))).acknowledged.wait()
        assert kinds(carrying.outcomes) == [DONE] * 3


async def test_outcomes_leave_in_lists_that_are_bounded(carrying: Carrying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying_module, "LIST_ITEMS", 4)
    async with carrying.consumer() as consuming:
        await (await take(consuming, *confirms(10))).acknowledged.wait()
    assert [len(message) for message in carrying.published] == [4, 4, 2]
    assert OutcomeList(outcomes=carrying.published[0]).outcomes[0].kind == DONE


async def test_one_that_cannot_even_be_looked_at_harms_no_other(
    carrying: Carrying, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing = Tracing.passing

    def stumbles(self: Tracing, parent: TraceParent) -> Any:
        if parent.parent == "bad":
            raise ValueError("a bug")
        return passing(self, parent)

    monkeypatch.setattr(Tracing, "passing", stumbles)
    commands = confirms(3)
    commands[1].traceparent = "bad"
    async with carrying.consumer() as consuming:
        await (await take(consuming, *commands)).acknowledged.wait()
    assert kinds(carrying.outcomes) == [DONE, RETRY, DONE]


async def test_where_those_together_were_stopped_the_list_ends_all_the_same(carrying: Carrying) -> None:
    class Stopped:
        """As when the event loop ends under it."""

        def add_command(self, *_: object) -> bool:
            return True

        async def run(self) -> None:
            raise asyncio.CancelledError

    async with carrying.consumer(join=lambda tell: Stopped(), at_once=1) as consuming:
        async with asyncio.timeout(5):
            await (await take(consuming, *confirms(1), *confirms(1))).acknowledged.wait()
        assert not consuming._turns.locked()
    assert not carrying.published
