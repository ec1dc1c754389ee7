"""How commands and outcomes travel: what waits where, in which lists, and who carries out what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tcc.amqp.consumer import CommandConsumer
from tcc.amqp.topology import EXCHANGE, command_queue
from tcc.v1.participant_pb2 import Command, CommandList, Outcome
from tests.rabbitmq.broker import channel, depth
from tests.rabbitmq.ends import BUSY, DONE, RETRY, Worker, answer, command, consumer, manager, until
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitMQ


async def test_commands_wait_in_the_queue_while_the_participant_is_down(broker: RabbitMQ, name: str) -> None:
    async with manager(broker.url, name) as end:
        end.courier.send([command("a", name), command("b", name)])
        await until(lambda: end.courier.published > 0 and end.courier.waiting == 0)
        await until(lambda: _waits(broker.url, name))
        worker = Worker()
        async with consumer(broker.url, name, worker.handle):
            await end.outcomes_of({"a", "b"})
    assert sorted(worker.begun) == ["a", "b"]
    assert end.courier.commands_published == 2


async def test_a_message_is_as_the_contract_says(broker: RabbitMQ, name: str) -> None:
    async with manager(broker.url, name, answer_wait=lambda unanswered: 10.0 + unanswered) as end:
        end.courier.send([command("a", name), command("b", name, attempt=3)])
        async with channel(broker.url) as own:
            await until(lambda: _waits(broker.url, name))
            queue = await own.get_queue(command_queue(name))
            message = await queue.get()
            assert message is not None
            assert (message.exchange, message.routing_key) == (EXCHANGE, name)
            assert message.delivery_mode == 2
            assert message.expiration == 12.0  # of the list's longest: a third attempt waits longer
            assert message.message_id
            assert (message.reply_to or "").startswith("tcc.outcomes.r.")
            assert [item.gid for item in CommandList.FromString(message.body).commands] == ["a", "b"]
            await message.ack()
            # The same declaration on an existing queue is refused unless it is the same in everything.
            await own.declare_queue(command_queue(name), durable=True, arguments={"x-queue-type": "quorum"})


async def test_lists_are_bounded_in_commands_and_in_bytes(broker: RabbitMQ, name: str) -> None:
    sizes: list[tuple[int, int]] = []
    async with manager(broker.url, name) as end:
        end.courier.send([command(f"small-{number}", name) for number in range(1200)])
        end.courier.send([command(f"large-{number}", name, request=b"x" * 250_000) for number in range(9)])
        end.courier.send([command("huge", name, request=b"x" * 1_500_000)])
        await until(lambda: end.courier.waiting == 0)
        async with channel(broker.url) as own:
            queue = await own.get_queue(command_queue(name))
            seen = 0
            while seen < 1210:
                message = await queue.get()
                assert message is not None
                count = len(CommandList.FromString(message.body).commands)
                sizes.append((count, len(message.body)))
                seen += count
                await message.ack()
    assert max(count for count, _ in sizes) == 512
    assert all(size <= 1024 * 1024 for count, size in sizes if count > 1)
    assert (1, 1) in [(count, size // 1_500_000) for count, size in sizes]  # what is larger goes alone
    assert len(sizes) <= 9


async def test_under_load_outcomes_leave_in_lists_too(broker: RabbitMQ, name: str) -> None:
    worker = Worker()
    async with manager(broker.url, name) as end, consumer(broker.url, name, worker.handle, at_once=5000) as consuming:
        worker.hold()
        gids = {f"g{number}" for number in range(1000)}
        end.courier.send([command(gid, name) for gid in gids])
        await worker.until_begun(1000)
        worker.release()
        came = await end.outcomes_of(gids)
    assert set(came.values()) == {1}
    assert consuming.published <= 10


async def test_an_outcome_leaves_when_it_is_ready_whatever_else_its_list_holds(broker: RabbitMQ, name: str) -> None:
    never = asyncio.Event()

    async def handle(item: Command, timeout: float) -> Outcome:
        if item.gid == "slow":
            await never.wait()
        return answer(item)

    async with manager(broker.url, name) as end, consumer(broker.url, name, handle):
        end.courier.send([command("slow", name), command("quick", name)])
        assert (await end.outcome()).gid == "quick"


async def test_a_later_attempt_takes_the_place_of_one_that_still_waits(broker: RabbitMQ, name: str) -> None:
    attempts: list[int] = []

    async def handle(item: Command, timeout: float) -> Outcome:
        attempts.append(item.attempt)
        return answer(item)

    async with Proxy(broker.port) as proxy:
        proxy.freeze()
        url = f"amqp://127.0.0.1:{proxy.port}/"
        async with manager(url, name) as end, consumer(broker.url, name, handle):
            for attempt in (1, 2, 3):
                end.courier.send([command("a", name, attempt=attempt)])
                await asyncio.sleep(0)
            assert end.courier.waiting == 1
            proxy.thaw()
            assert (await end.outcome()).attempt == 3
    assert attempts == [3]


async def test_outcomes_come_back_through_another_queue_on_each_connection(broker: RabbitMQ, name: str) -> None:
    worker = Worker()
    async with (
        Proxy(broker.port) as proxy,
        manager(f"amqp://127.0.0.1:{proxy.port}/", name) as end,
        consumer(broker.url, name, worker.handle),
    ):
        seen = set()
        for number in range(3):
            end.courier.send([command(f"g{number}", name)])
            await end.outcomes_of({f"g{number}"})
            seen.add(end.courier.reply_to)
            proxy.cut()
            await until(lambda: end.courier.reply_to not in seen)
    assert len(seen) == 3


async def test_a_participant_that_is_not_configured_is_answered_at_once(broker: RabbitMQ, name: str) -> None:
    async with manager(broker.url, name) as end:
        end.courier.send([command("a", "stranger")])
        outcome = end.outcomes.get_nowait()
    assert (outcome.kind, outcome.code) == (RETRY, 14)
    assert "stranger is not configured" in outcome.message


async def test_a_command_that_takes_too_long_is_a_retry_and_its_list_is_acknowledged(
    broker: RabbitMQ, name: str
) -> None:
    worker = Worker()
    worker.hold()
    async with manager(broker.url, name) as end:
        async with consumer(broker.url, name, worker.handle, handler_timeout=0.2) as consuming:
            end.courier.send([command("a", name)])
            outcome = await end.outcome()
            assert (outcome.kind, outcome.code) == (RETRY, 4)
            await consuming.drain(5)
        async with consumer(broker.url, name, worker.handle) as again:
            await again.ready()
            assert again.messages == 0  # nothing was delivered again


async def test_a_command_that_took_too_long_is_carried_out_again_when_it_comes_again(
    broker: RabbitMQ, name: str
) -> None:
    worker = Worker()
    worker.hold()
    async with (
        manager(broker.url, name) as end,
        consumer(broker.url, name, worker.handle, handler_timeout=0.2),
    ):
        end.courier.send([command("a", name), command("b", name)])
        assert [(await end.outcome()).kind, (await end.outcome()).kind] == [RETRY, RETRY]
        worker.release()
        end.courier.send([command("a", name, attempt=2), command("b", name, attempt=2)])
        assert [(await end.outcome()).kind, (await end.outcome()).kind] == [DONE, DONE]
    assert sorted(worker.begun) == ["a", "a", "b", "b"]


async def test_a_command_that_gets_no_turn_is_busy(broker: RabbitMQ, name: str) -> None:
    worker = Worker()
    worker.hold()
    async with (
        manager(broker.url, name) as end,
        consumer(broker.url, name, worker.handle, handler_timeout=0.3, at_once=1),
    ):
        end.courier.send([command("a", name), command("b", name)])
        outcomes = {outcome.gid: outcome for outcome in [await end.outcome(), await end.outcome()]}
    assert sorted(outcome.kind for outcome in outcomes.values()) == sorted([BUSY, RETRY])
    assert worker.begun == ["a"]
    assert outcomes["b"].retry_after.seconds == 1


async def test_a_handler_that_raises_is_a_retry(broker: RabbitMQ, name: str) -> None:
    async def handle(item: Command, timeout: float) -> Outcome:
        raise KeyError("x")

    async with manager(broker.url, name) as end, consumer(broker.url, name, handle):
        end.courier.send([command("a", name)])
        outcome = await end.outcome()
    assert (outcome.kind, outcome.code) == (RETRY, 13)
    assert "KeyError" in outcome.message


async def test_two_instances_share_a_queue(broker: RabbitMQ, name: str) -> None:
    one, two = Worker(), Worker()
    one.hold()
    two.hold()
    async with (
        manager(broker.url, name) as end,
        consumer(broker.url, name, one.handle, messages_ahead=1) as first,
        consumer(broker.url, name, two.handle, messages_ahead=1) as second,
    ):
        await first.ready()
        await second.ready()
        end.courier.send([command("a", name)])
        await until(lambda: end.courier.published == 1 and end.courier.waiting == 0)
        end.courier.send([command("b", name)])
        await one.until_begun(1)
        await two.until_begun(1)
        one.release()
        two.release()
        await end.outcomes_of({"a", "b"})
        await first.drain(5)  # acknowledges; else what one leaves behind would come to the other
        await second.drain(5)
    assert sorted(one.begun + two.begun) == ["a", "b"]


async def test_what_an_instance_had_in_hand_when_it_ended_another_carries_out(broker: RabbitMQ, name: str) -> None:
    dying, living = Worker(), Worker()
    dying.hold()
    async with manager(broker.url, name) as end:
        async with consumer(broker.url, name, dying.handle):
            end.courier.send([command("a", name), command("b", name)])
            await dying.until_begun(2)
        async with consumer(broker.url, name, living.handle):
            came = await end.outcomes_of({"a", "b"})
    assert set(came.values()) == {1}
    assert dying.ended == []
    assert end.courier.published == 1  # the broker did it: nothing was sent again


async def test_a_drained_instance_ends_what_it_has_and_takes_nothing_more(broker: RabbitMQ, name: str) -> None:
    draining, other = Worker(), Worker()
    draining.hold()
    async with manager(broker.url, name) as end, consumer(broker.url, name, draining.handle) as consuming:
        end.courier.send([command("a", name)])
        await draining.until_begun(1)
        drained = asyncio.create_task(consuming.drain(10))
        async with consumer(broker.url, name, other.handle) as next_one:
            await next_one.ready()
            end.courier.send([command("b", name)])
            assert (await end.outcome()).gid == "b"
            draining.release()
            assert (await end.outcome()).gid == "a"
            await drained
    assert (draining.begun, other.begun) == (["a"], ["b"])


async def test_a_subscription_to_which_nothing_comes_is_renewed_and_loses_nothing(broker: RabbitMQ, name: str) -> None:
    worker = Worker()
    async with (
        manager(broker.url, name) as end,
        consumer(broker.url, name, worker.handle, renew_after=0.05) as consuming,
    ):
        await until(lambda: consuming.renewed >= 3)
        gids = [f"g{number}" for number in range(50)]
        before = consuming.renewed
        for number, gid in enumerate(gids):
            end.courier.send([command(gid, name)])
            assert (await end.outcome()).gid == gid
            await asyncio.sleep(0.01 * (number % 12))  # some come while it is renewed
        assert consuming.renewed > before
    assert consuming.opened == 1  # all on one connection


@pytest.mark.parametrize("copies", [2, 5])
async def test_copies_of_a_command_in_one_instance_are_carried_out_once_and_answered(
    broker: RabbitMQ, name: str, copies: int
) -> None:
    worker = Worker()
    worker.hold()
    async with manager(broker.url, name) as end, consumer(broker.url, name, worker.handle) as consuming:
        for attempt in range(1, copies + 1):
            end.courier.send([command("a", name, attempt=attempt)])
            await until(lambda: consuming.messages == attempt)  # noqa: B023  used within this round
        worker.release()
        assert (await end.outcome()).kind == DONE
        await until(lambda: _is_empty(broker.url, name))
    assert worker.begun == ["a"]
    assert end.outcomes.empty()


class Delivery:
    """A message as a consumer gets it, that notes its acknowledgement."""

    routing_key = "anything"
    reply_to = "outcomes"

    def __init__(self, *commands: Command) -> None:
        self.body = CommandList(commands=commands).SerializeToString()
        self.acknowledged = asyncio.Event()

    async def ack(self) -> None:
        self.acknowledged.set()


async def test_a_copy_is_acknowledged_only_once_the_outcome_that_answers_it_was_handed_over() -> None:
    worker = Worker()
    worker.hold()
    consuming = CommandConsumer("amqp://nobody@127.0.0.1:1/", "p", worker.handle)
    publishing, let_go = asyncio.Event(), asyncio.Event()

    async def publish(_reply_to: str, outcomes: Sequence[bytes]) -> list[Exception | None]:
        publishing.set()
        await let_go.wait()
        return [None for _ in outcomes]

    consuming._publish = publish  # type: ignore[assignment, method-assign]  # stands in for a broker that takes its time
    copies = [Delivery(command("a", "p")), Delivery(command("a", "p", attempt=2))]
    for copy in copies:
        await consuming._take(copy)  # type: ignore[arg-type]  # all of a message that it looks at
    await worker.until_begun(1)
    worker.release()
    await publishing.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(copy.acknowledged.is_set() for copy in copies)
    let_go.set()
    for copy in copies:
        await copy.acknowledged.wait()
    assert worker.begun == ["a"]


async def _waits(url: str, name: str) -> bool:
    return await depth(url, name) > 0


async def _is_empty(url: str, name: str) -> bool:
    return await depth(url, name) == 0
