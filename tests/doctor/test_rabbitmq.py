"""The doctor on RabbitMQ, a real one: each thing that can be wrong, made wrong."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from tcc.amqp.topology import command_queue, declare_on
from tcc_server.config import Config, Participant, RabbitMQ as Settings
from tcc_server.doctor.finding import Finding, Level
from tcc_server.doctor.rabbitmq import check_rabbitmq
from tests.doctor.looks import levels, only, said
from tests.rabbitmq.broker import channel, depth
from tests.servers.process import free_port
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.running import Running


@pytest.fixture(scope="module", name="broker")
def _broker(rabbitmq_server: RabbitMQ | Running, servers_folder: Path) -> Iterator[RabbitMQ]:
    if isinstance(rabbitmq_server, RabbitMQ):
        yield rabbitmq_server
        return
    own = RabbitMQ(servers_folder / "rabbitmq-doctor")  # users and alarms of somebody else's are not ours to change
    own.start()
    yield own
    own.stop()


@pytest.fixture
def name() -> str:
    """A participant's name that no other test has."""
    return f"bank-{secrets.token_hex(4)}"


@pytest.fixture
def weak(broker: RabbitMQ) -> Iterator[str]:
    """A user without any permission in the vhost; its name is its password."""
    broker.control("add_user", "weak", "weak")
    broker.control("set_permissions", "weak", "^$", "^$", "^$")
    yield "weak"
    broker.control("delete_user", "weak")


def config(url: str, *names: str, bridged: bool = False) -> Config:
    participants = {name: Participant(endpoint="127.0.0.1:1", bridged=bridged) for name in names}
    return Config(courier="rabbitmq", rabbitmq=Settings(url=url), participants=participants)


async def look(broker: RabbitMQ, *names: str, user: str = "guest") -> list[Finding]:
    return await check_rabbitmq(config(f"amqp://{user}:{user}@127.0.0.1:{broker.port}/", *names))


async def test_a_direct_courier_needs_no_broker() -> None:
    assert levels(await check_rabbitmq(Config())) == {Level.OK}


async def test_a_fresh_broker_is_well_and_nothing_is_declared(broker: RabbitMQ, name: str) -> None:
    before = broker.control("list_queues", "name"), broker.control("list_exchanges"), broker.control("list_bindings")
    findings = await look(broker, name)
    assert levels(findings) == {Level.OK}
    assert "not there yet" in said(findings)
    after = broker.control("list_queues", "name"), broker.control("list_exchanges"), broker.control("list_bindings")
    assert after == before


async def test_a_queue_as_it_must_be_keeps_its_messages_and_lacks_only_a_consumer(broker: RabbitMQ, name: str) -> None:
    async with channel(broker.url) as own:
        queue = await declare_on(own, name)
        await own.default_exchange.publish(aio_pika.Message(b""), command_queue(name))
        finding = only(await look(broker, name), Level.WARNING)
        assert "nobody consumes from it, and 1 messages wait" in finding.found
        assert "rabbitmq=" in finding.mend
        assert await depth(broker.url, name) == 1
        await queue.purge()
        await queue.consume(_ignore)
        findings = await look(broker, name)
        assert levels(findings) == {Level.OK}
        assert "1 consume from it" in said(findings)


async def test_a_bridged_participants_queue_without_consumers_wants_the_bridge(broker: RabbitMQ, name: str) -> None:
    async with channel(broker.url) as own:
        await declare_on(own, name)
    finding = only(await check_rabbitmq(config(broker.url, name, bridged=True)), Level.WARNING)
    assert "tcc bridge" in finding.mend


@pytest.mark.parametrize(
    "arguments",
    [{}, {"x-queue-type": "classic"}, {"x-queue-type": "quorum", "x-delivery-limit": 3}],
    ids=["no type", "classic", "quorum with more"],
)
async def test_a_queue_with_other_arguments_is_a_problem(
    broker: RabbitMQ, name: str, arguments: dict[str, str | int]
) -> None:
    async with channel(broker.url) as own:
        await own.declare_queue(command_queue(name), durable=True, arguments=dict(arguments))
    finding = only(await look(broker, name), Level.PROBLEM)
    assert finding.subject == f"queue {command_queue(name)}"
    assert "no quorum queue without further arguments" in finding.found
    assert finding.mend.startswith(f"rabbitmqctl delete_queue {command_queue(name)} -p /;")


async def test_an_exchange_of_another_kind_is_a_problem(broker: RabbitMQ, name: str) -> None:
    broker.control("add_vhost", "other")
    broker.control("set_permissions", "-p", "other", "guest", ".*", ".*", ".*")
    url = f"{broker.url}other"
    try:
        async with channel(url) as own:
            await own.declare_exchange("tcc.commands", "fanout", durable=True)
        finding = only(await check_rabbitmq(config(url, name)), Level.PROBLEM)
    finally:
        broker.control("delete_vhost", "other")
    assert "not direct and durable" in finding.found


async def test_a_vhost_that_nothing_was_declared_in_is_well_and_stays_empty(broker: RabbitMQ, name: str) -> None:
    broker.control("add_vhost", "fresh")
    broker.control("set_permissions", "-p", "fresh", "guest", ".*", ".*", ".*")
    try:
        findings = await check_rabbitmq(config(f"{broker.url}fresh", name))
        assert "tcc" not in broker.control("list_exchanges", "-p", "fresh")
        assert not broker.control("list_queues", "-p", "fresh", "name").split()[1:]
    finally:
        broker.control("delete_vhost", "fresh")
    assert levels(findings) == {Level.OK}


async def test_missing_permissions_are_named_and_what_it_proposes_is_enough(
    broker: RabbitMQ, weak: str, name: str
) -> None:
    findings = [one for one in await look(broker, name, user=weak) if one.level is Level.PROBLEM]
    for right in ("configure tcc.commands.*", "read tcc.outcomes.*", "publish to tcc.commands and amq.default"):
        assert right in said(findings)
    command = next(one.mend for one in findings if one.mend.startswith("rabbitmqctl set_permissions"))
    broker.control(*(word.strip("'") for word in command.split()[1:]))
    assert levels(await look(broker, name, user=weak)) == {Level.OK}


@pytest.mark.parametrize(
    ("rights", "missing"),
    [
        (("^$", ".*", ".*"), "lacks the permission to configure tcc.commands.*, to configure tcc.outcomes.*"),
        ((".*", ".*", "^$"), "to read tcc.commands.*, to read tcc.outcomes.*, to write tcc.commands.*"),
        ((".*", "^tcc\\.", ".*"), "may not publish to amq.default"),
    ],
    ids=["configure", "read", "the default exchange"],
)
async def test_each_missing_permission_is_said_alone(
    broker: RabbitMQ, weak: str, rights: tuple[str, str, str], missing: str
) -> None:
    async with channel(broker.url) as own:
        await own.declare_exchange("tcc.commands", "direct", durable=True)
    broker.control("set_permissions", weak, *rights)
    problems = [one for one in await look(broker, user=weak) if one.level is Level.PROBLEM]
    assert any(missing in one.found for one in problems)


async def test_a_wrong_password_is_a_problem_that_does_not_show_it(broker: RabbitMQ) -> None:
    finding = only(await check_rabbitmq(config(f"amqp://guest:hunter2@127.0.0.1:{broker.port}/")), Level.PROBLEM)
    assert "does not let user 'guest' in" in finding.found
    assert "hunter2" not in finding.found + finding.mend


async def test_a_vhost_that_is_not_there_is_a_problem(broker: RabbitMQ) -> None:
    finding = only(await check_rabbitmq(config(f"{broker.url}nowhere")), Level.PROBLEM)
    assert "does not open vhost 'nowhere' to user 'guest': rabbitmqctl add_vhost nowhere" in finding.found


async def test_a_vhost_that_the_user_may_not_enter_is_a_problem(broker: RabbitMQ, weak: str) -> None:
    broker.control("clear_permissions", weak)
    finding = only(await look(broker, user=weak), Level.PROBLEM)
    assert "does not open vhost '/' to user 'weak'" in finding.found
    assert "set_permissions -p / weak" in finding.found


async def test_a_broker_that_is_away_is_a_problem() -> None:
    finding = only(await check_rabbitmq(config(f"amqp://127.0.0.1:{free_port()}/")), Level.PROBLEM)
    assert "cannot be reached" in finding.found


async def test_a_memory_alarm_is_a_problem(broker: RabbitMQ, name: str) -> None:
    broker.control("set_vm_memory_high_watermark", "0")
    try:
        finding = only(await look(broker, name), Level.PROBLEM)
    finally:
        broker.control("set_vm_memory_high_watermark", "0.4")
    assert "short of memory or disk" in finding.found


async def _ignore(_: AbstractIncomingMessage) -> None:
    """A consumer."""
