"""What should not be in a queue, and what a broker refuses: said clearly and once, nothing lost, no crash loop."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aio_pika.exceptions import AMQPError

import tcc
from services.accounts.v1.accounts_pb2_grpc import add_AccountsServicer_to_server
from tcc.amqp.topology import EXCHANGE, command_queue
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import CommandList, Outcome, OutcomeList
from tcc_server.core.model import Key, State
from tests.links.participant import Told
from tests.rabbitmq.broker import channel, forget_queues, put
from tests.rabbitmq.ends import DONE, Manager, Worker, command, consumer, manager, until
from tests.rabbitmq.installation import installation
from tests.servers.rabbitmq import RabbitMQ

UNDECODABLE = b"\xff\xfe no protobuf"
LOGGERS = ("tcc.amqp", "tcc_server.courier.rabbitmq")


def said(caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    """What was logged with all of these words, by anybody."""
    return [text for text in (record.getMessage() for record in caplog.records) if all(word in text for word in words)]


async def test_undecodable_bytes_on_a_command_queue(
    broker: RabbitMQ, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker()
    async with manager(broker.url, name) as end, consumer(broker.url, name, worker.handle) as consuming:
        await consuming.ready()
        await put(broker.url, command_queue(name), UNDECODABLE)
        end.courier.send([command("a", name)])
        assert (await end.outcome()).kind == DONE
        await until(lambda: consuming.undecodable == 1)
        await consuming.drain(5)
    async with consumer(broker.url, name, worker.handle) as again:
        await again.ready()
        assert again.messages == 0  # it was not put back
    assert len(said(caplog, "no list of commands", f"{len(UNDECODABLE)} bytes", "ff fe 20")) == 1


async def test_undecodable_bytes_on_the_queue_of_outcomes(
    broker: RabbitMQ, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker()
    async with manager(broker.url, name) as end:
        await put(broker.url, await _reply_to(broker.url, end, name), UNDECODABLE)
        await until(lambda: end.courier.undecodable == 1)
        async with consumer(broker.url, name, worker.handle):
            end.courier.send([command("a", name)])
            assert (await end.outcome()).gid == "a"
    assert len(said(caplog, "queue of outcomes", "ff fe 20")) == 1


async def test_outcomes_of_nobody_and_of_the_other_phase_change_nothing(broker: RabbitMQ, name: str) -> None:
    async with installation(broker.url, name) as running:
        await until(lambda: bool(running.courier.reply_to))
        hold = asyncio.Event()

        async def wait(_: object) -> None:
            await hold.wait()

        running.services[name].told.on_confirm = wait
        gid = await running.transact()
        reply_to = running.courier.reply_to
        strange = [
            Outcome(namespace="default", gid="nobody", branch="0", phase=transaction_pb2.PHASE_CONFIRM, kind=DONE),
            Outcome(namespace="default", gid=gid, branch="0", phase=transaction_pb2.PHASE_CANCEL, kind=DONE),
            Outcome(namespace="default", gid=gid, branch="9", phase=transaction_pb2.PHASE_CONFIRM, kind=DONE),
            Outcome(namespace="default", gid=gid, branch="0", phase=transaction_pb2.PHASE_TRY),
            Outcome(),
        ]
        assert reply_to
        await put(broker.url, reply_to, OutcomeList(outcomes=strange).SerializeToString())
        other = await running.transact()  # ends after them, on the same queue
        assert (await running.engine.get(Key("default", gid))).state is State.CONFIRMING
        hold.set()
        await running.ended(other)
        await running.all_end_confirmed()


async def test_an_outcome_whose_manager_is_gone_counts_as_handed_over(broker: RabbitMQ, name: str) -> None:
    worker = Worker()
    worker.hold()
    async with consumer(broker.url, name, worker.handle) as consuming:
        async with manager(broker.url, name) as end:
            end.courier.send([command("a", name)])
            await worker.until_begun(1)
        worker.release()
        await until(lambda: consuming.unclaimed == 1)
        assert consuming.published == 1  # it is not tried again
        await consuming.drain(5)
    async with consumer(broker.url, name, worker.handle) as again:
        await again.ready()
        assert again.messages == 0  # and the list was acknowledged


async def test_a_command_that_nobody_wants_an_answer_to_is_carried_out(broker: RabbitMQ, name: str) -> None:
    worker = Worker()
    async with consumer(broker.url, name, worker.handle) as consuming:
        await consuming.ready()
        await put(broker.url, command_queue(name), CommandList(commands=[command("a", name)]).SerializeToString())
        await until(lambda: worker.ended == ["a"])
    assert consuming.published == 0


async def test_a_participant_that_has_become_unroutable(broker: RabbitMQ, name: str) -> None:
    worker = Worker()
    async with manager(broker.url, name) as end:
        end.courier.send([command("a", name)])
        await until(lambda: end.courier.published == 1 and end.courier.waiting == 0)
        await forget_queues(broker.url, name)
        end.courier.send([command("a", name, attempt=2), command("b", name)])
        await until(lambda: end.courier.waiting == 0)
        async with consumer(broker.url, name, worker.handle):
            await end.outcomes_of({"a", "b"})
    assert end.courier.published == 3  # the second came back, and left once more with the queue declared anew
    assert worker.begun == ["a", "b"]


async def test_an_exchange_that_is_gone_is_declared_anew(broker: RabbitMQ, name: str) -> None:
    worker = Worker()
    async with manager(broker.url, name) as end, consumer(broker.url, name, worker.handle):
        end.courier.send([command("a", name)])
        await end.outcome()
        async with channel(broker.url) as own:
            await own.exchange_delete(EXCHANGE)
        end.courier.send([command("b", name)])
        await until(lambda: end.courier.published == 2 and end.courier.waiting == 0)
        end.courier.send([command("b", name, attempt=2)])  # as the engine does: what became of the first is unknown
        assert (await end.outcome()).gid == "b"


async def test_a_queue_with_other_arguments_is_said_and_holds_up_nobody_else(
    broker: RabbitMQ, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = f"{name}-too"
    one, two = Worker(), Worker()
    async with channel(broker.url) as own:
        await own.declare_queue(command_queue(name), durable=True)  # a classic one
    async with (
        manager(broker.url, name, other) as end,
        consumer(broker.url, name, one.handle),
        consumer(broker.url, other, two.handle),
    ):
        end.courier.send([command("a", name), command("b", other)])
        assert (await end.outcome()).gid == "b"
        await until(lambda: len(said(caplog, "other arguments", command_queue(name))) == 2)
        await _some_attempts()
        assert len(said(caplog, "other arguments")) == 2  # once by each end
        assert all("delete it" in text for text in said(caplog, "other arguments"))
        await forget_queues(broker.url, name)
        assert (await end.outcome()).gid == "a"
    assert end.courier.published == 2


@pytest.mark.parametrize(
    ("path", "words"),
    {
        "the password": ("guest:wrong@127.0.0.1:{port}/", ("does not let user 'guest' in", "check user and password")),
        "the user": ("nobody:guest@127.0.0.1:{port}/", ("does not let user 'nobody' in",)),
        "the vhost": (
            "guest:guest@127.0.0.1:{port}/nowhere",
            ("does not open vhost 'nowhere'", "rabbitmqctl add_vhost nowhere"),
        ),
    }.values(),
    ids=["the password", "the user", "the vhost"],
)
async def test_what_is_wrong_in_the_url_is_said_once_by_each_connection(
    broker: RabbitMQ, name: str, path: str, words: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    url = f"amqp://{path.format(port=broker.port)}"
    async with manager(url, name) as end, consumer(url, name, Worker().handle):
        end.courier.send([command("a", name)])
        await until(lambda: len(said(caplog, *words)) >= 4)
        await _some_attempts()
        assert (end.courier.published, end.courier.waiting) == (0, 1)
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(records) == 4  # the two connections of each end; the libraries below are not heard
    assert {record.name for record in records} <= set(LOGGERS)
    assert all(word in record.getMessage() for record in records for word in words)
    assert "wrong" not in caplog.text  # the password


async def test_a_user_without_permissions_is_said_what_to_grant_and_goes_on_once_it_has_them(
    broker: RabbitMQ, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    user = name
    await asyncio.to_thread(broker.control, "add_user", user, "secret")
    await asyncio.to_thread(broker.control, "set_permissions", "-p", "/", user, "^$", "^$", "^$")
    url = f"amqp://{user}:secret@127.0.0.1:{broker.port}/"
    worker = Worker()
    async with manager(url, name) as end, consumer(url, name, worker.handle):
        end.courier.send([command("a", name)])
        await until(lambda: len(said(caplog, "permission")) >= 2)
        granted = said(caplog, "set_permissions -p / ")[0].split("rabbitmqctl ", 1)[1].split(" (")[0]
        await asyncio.to_thread(broker.control, *[part.strip("'") for part in granted.split()])
        assert (await end.outcome()).gid == "a"  # exactly what the message says is enough
    await asyncio.to_thread(broker.control, "delete_user", user)


async def test_what_is_no_rabbitmq_is_said_with_its_address(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"AMQP\x00\x01\x00\x00")  # a broker of AMQP 1.0 alone
        await reader.read(100)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with consumer(f"amqp://127.0.0.1:{port}/", name, Worker().handle):
            await until(lambda: bool(said(caplog, "does not speak AMQP 0-9-1", f"127.0.0.1:{port}")))


@pytest.mark.parametrize("url", ["http://host/", "localhost:5672", "amqp://", "amqp://host:port/", ""])
def test_a_participant_refuses_a_url_that_is_none(url: str) -> None:
    with pytest.raises(tcc.UsageError, match="rabbitmq must be amqp://USER:PASSWORD@HOST:PORT/VHOST"):
        tcc.ParticipantServer("127.0.0.1:0", fence=tcc.MemoryFence(), rabbitmq=url)


async def test_a_participant_serves_by_grpc_while_there_is_no_broker() -> None:
    server = tcc.ParticipantServer("127.0.0.1:0", fence=tcc.MemoryFence(), rabbitmq="amqp://127.0.0.1:1/")
    add_AccountsServicer_to_server(Told(), server)
    await server.start()
    assert server.port
    await server.stop(0)


async def _reply_to(url: str, end: Manager, name: str) -> str:
    """Where the manager wants its outcomes."""
    await until(lambda: bool(end.courier.reply_to))
    async with channel(url) as own:
        with pytest.raises(AMQPError):
            await own.declare_queue(end.courier.reply_to, passive=True)  # it is the manager's connection's alone
    return end.courier.reply_to


async def _some_attempts() -> None:
    """Time for several attempts with the tests' pauses."""
    await asyncio.sleep(1.0)
