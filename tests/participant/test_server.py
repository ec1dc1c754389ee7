"""The server around the actions: what it refuses to start with, what it passes through, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tcc
from services.accounts.v1 import accounts_pb2 as pb, accounts_pb2_grpc
from tcc import wire
from tcc.fence import MemoryFence, Phase
from tcc.participant import ParticipantServer
from tcc.v1 import options_pb2, participant_pb2, participant_pb2_grpc, transaction_pb2
from tests.participant.scripted import METHODS, REPLY, REQUEST, SERVICE, Branch, Grpc, Scripted, Told, make_server


@pytest.fixture
async def server(scripted: Scripted) -> AsyncIterator[ParticipantServer]:
    server = make_server(scripted, name="bank-a")
    await server.start()
    yield server
    await server.stop(None)


@pytest.fixture
async def channel(server: ParticipantServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


# What it refuses to start with.


def replaced(name: str, handler: Any) -> accounts_pb2_grpc.AccountsServicer:
    scripted = Scripted()
    setattr(scripted, name, handler)
    return scripted


def test_a_sync_handler_of_an_action_is_refused() -> None:
    def confirm(request: Any, context: Any) -> Empty:
        return Empty()

    with pytest.raises(tcc.UsageError, match=r"confirm, the handler of .*/ConfirmDebit, is not a coroutine function"):
        make_server(replaced("ConfirmDebit", confirm))


def test_an_async_generator_for_an_action_is_refused() -> None:
    async def attempt(request: Any, context: Any) -> AsyncIterator[pb.DebitReply]:
        yield pb.DebitReply()

    with pytest.raises(tcc.UsageError, match="write `async def`"):
        make_server(replaced("TryDebit", attempt))


def test_a_method_that_the_servicer_leaves_out_is_refused_by_name() -> None:
    unfinished: Any = accounts_pb2_grpc.AccountsServicer
    complete = {name: vars(Scripted)[name] for name in vars(Scripted) if name != "CancelDebit"}
    forgetful = type("Forgetful", (unfinished,), complete)

    with pytest.raises(tcc.UsageError, match=r"Forgetful does not implement .*/CancelDebit, the cancel of an action"):
        make_server(forgetful())


def test_a_service_that_is_added_twice_is_refused() -> None:
    server = make_server(Scripted())
    with pytest.raises(tcc.UsageError, match="added twice"):
        accounts_pb2_grpc.add_AccountsServicer_to_server(Scripted(), server)


@pytest.mark.parametrize("name", ["", "bank a", "x" * 65])
def test_a_participants_name_that_is_no_id_is_refused(name: str) -> None:
    with pytest.raises(tcc.UsageError, match="participant name"):
        make_server(Scripted(), name=name)


async def test_a_server_without_actions_is_refused() -> None:
    server = tcc.ParticipantServer("127.0.0.1:0", fence=MemoryFence())
    with pytest.raises(tcc.UsageError, match="no registered service has an action"):
        await server.start()


async def test_a_port_in_use_is_refused_by_its_address(server: ParticipantServer) -> None:
    second = tcc.ParticipantServer(f"127.0.0.1:{server.port}", fence=MemoryFence())
    accounts_pb2_grpc.add_AccountsServicer_to_server(Scripted(), second)
    with pytest.raises(tcc.UsageError, match=rf"cannot listen on 127\.0\.0\.1:{server.port}: the port is in use"):
        await second.start()


async def test_starting_twice_or_registering_late_is_refused(server: ParticipantServer) -> None:
    with pytest.raises(tcc.UsageError, match="started already"):
        await server.start()
    with pytest.raises(tcc.UsageError, match="started already"):
        accounts_pb2_grpc.add_AccountsServicer_to_server(Scripted(), server)


def test_there_is_no_port_before_the_start() -> None:
    with pytest.raises(tcc.UsageError, match=r"before start\(\)"):
        _ = make_server(Scripted()).port


async def unary(request: Any, context: Any) -> Empty:
    return Empty()


def describe_service(package: str, confirm: str, *, cancel_streams: bool = False) -> str:
    """Puts a service with one action into the descriptor pool; gives its full name."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto",
        package=package,
        syntax="proto3",
        dependency=["google/protobuf/empty.proto", "tcc/v1/options.proto"],
    )
    service = file.service.add(name="Odd")
    for name in ("TryIt", "ConfirmIt", "CancelIt"):
        method = service.method.add(
            name=name, input_type=".google.protobuf.Empty", output_type=".google.protobuf.Empty"
        )
        method.server_streaming = cancel_streams and name == "CancelIt"
    options = service.method[0].options
    options.Extensions[options_pb2.action].CopyFrom(options_pb2.Action(confirm=confirm, cancel="CancelIt"))
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return f"{package}.Odd"


def register(service: str, *names: str, make: Callable[..., Any] = grpc.unary_unary_rpc_method_handler) -> None:
    handlers = {name: make(unary, Empty.FromString, Empty.SerializeToString) for name in names}
    server = tcc.ParticipantServer("127.0.0.1:0", fence=MemoryFence())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def test_an_option_that_names_no_method_of_the_service_is_refused() -> None:
    service = describe_service("odd_name", "ConfirmThat")
    with pytest.raises(tcc.UsageError, match=r"names confirm: 'ConfirmThat', which is no method of odd_name\.Odd"):
        register(service, "TryIt", "ConfirmIt", "CancelIt")


def test_a_streaming_method_of_an_action_is_refused() -> None:
    service = describe_service("odd_stream", "ConfirmIt", cancel_streams=True)
    with pytest.raises(tcc.UsageError, match=r"CancelIt is streaming: Try, Confirm and Cancel are unary"):
        register(service, "TryIt", "ConfirmIt", "CancelIt")


def test_a_streaming_handler_of_an_action_is_refused() -> None:
    service = describe_service("odd_handler", "ConfirmIt")
    with pytest.raises(tcc.UsageError, match="has a streaming handler"):
        register(service, "TryIt", "ConfirmIt", "CancelIt", make=grpc.unary_stream_rpc_method_handler)


def test_an_action_without_a_handler_for_its_cancel_is_refused() -> None:
    service = describe_service("odd_gap", "ConfirmIt")
    with pytest.raises(tcc.UsageError, match=r"/odd_gap\.Odd/CancelIt, the cancel of an action, has no handler"):
        register(service, "TryIt", "ConfirmIt")


# What it offers and passes through.


async def test_methods_of_no_action_pass_untouched_sync_or_async(channel: grpc.aio.Channel) -> None:
    stub = accounts_pb2_grpc.AccountsStub(channel)
    assert (await stub.GetAccount(pb.GetAccountRequest(account="a"))).available == 7
    assert (await stub.OpenAccount(pb.OpenAccountRequest(account="a"))).account == "a"


async def test_an_unknown_method_outside_of_transactions_is_grpcs_own_affair(channel: grpc.aio.Channel) -> None:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/no.Such/Method")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await method(b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not raised.value.trailing_metadata()


async def test_the_ordinary_stub_without_a_manager_is_told_so(channel: grpc.aio.Channel) -> None:
    stub = accounts_pb2_grpc.AccountsStub(channel)
    for method in (stub.TryDebit, stub.ConfirmDebit, stub.CancelDebit):
        with pytest.raises(grpc.aio.AioRpcError, match="call it through a TCC manager") as raised:
            await method(REQUEST)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_it_describes_itself(channel: grpc.aio.Channel) -> None:
    stub = participant_pb2_grpc.ParticipantStub(channel)
    described = await stub.Describe(participant_pb2.DescribeRequest())
    credit = transaction_pb2.Methods(
        try_method=SERVICE + "TryCredit",
        confirm_method=SERVICE + "ConfirmCredit",
        cancel_method=SERVICE + "CancelCredit",
    )
    assert [(each.name, list(each.actions)) for each in described.participants] == [("bank-a", [METHODS, credit])]


def test_a_participant_is_named_after_its_service_by_default() -> None:
    assert [each.name for each in make_server(Scripted()).describe().participants] == ["services.accounts.v1.Accounts"]


async def test_a_server_with_interceptors_offers_no_streams_for_they_would_not_see_its_calls(
    scripted: Scripted,
) -> None:
    class Passing(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return await continuation(details)

    server = make_server(scripted, interceptors=(Passing(),))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: Any = participant_pb2_grpc.ParticipantStub(channel)
        for method in (stub.TryStream, stub.CommandStream):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                async for _ in method(iter(())):
                    pass
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.stop(None)


async def test_health_is_served_for_each_service(channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "services.accounts.v1.Accounts", "tcc.v1.Participant"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_interceptors_see_the_calls(scripted: Scripted) -> None:
    seen: list[str] = []

    class Watching(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            seen.append(details.method)
            return await continuation(details)

    server = make_server(scripted, interceptors=(Watching(),))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert (await Grpc(channel).attempt(Branch())).code is grpc.StatusCode.OK
    await server.stop(None)
    assert seen == [SERVICE + "TryDebit"]


async def test_options_are_stronger_than_the_servers_own(scripted: Scripted) -> None:
    server = make_server(scripted, options=[("grpc.max_receive_message_length", 100)])
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await accounts_pb2_grpc.AccountsStub(channel).GetAccount(pb.GetAccountRequest(account="a" * 200))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await server.stop(None)


async def test_calls_over_the_limit_are_told_so_and_are_not_marked(scripted: Scripted) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: Any) -> pb.DebitReply:
        entered.set()
        await leave.wait()
        return REPLY

    scripted.scripts[Phase.TRY] = slow
    server = make_server(scripted, maximum_concurrent_rpcs=1)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        first = asyncio.create_task(Grpc(channel).attempt(Branch()))
        await entered.wait()
        second = await Grpc(channel).attempt(Branch(gid="g-2"))
        leave.set()
        assert (await first).code is grpc.StatusCode.OK
    await server.stop(None)
    assert (second.code, second.trailers) == (grpc.StatusCode.RESOURCE_EXHAUSTED, ())


# How it ends.


async def test_stopping_lets_calls_in_progress_finish(server: ParticipantServer, scripted: Scripted) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: Any) -> Empty:
        entered.set()
        await leave.wait()
        return Empty()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        way = Grpc(channel)
        await way.attempt(Branch())
        scripted.scripts[Phase.CONFIRM] = slow
        confirming = asyncio.create_task(way.settle(Branch(), Phase.CONFIRM))
        await entered.wait()
        stopping = asyncio.create_task(server.stop(30))
        refused = None
        while refused is None or refused.code is not grpc.StatusCode.UNAVAILABLE:  # it stops taking calls a bit later
            with suppress(TimeoutError):  # gRPC may leave one unanswered that comes at the very moment
                async with asyncio.timeout(1):
                    refused = await way.settle(Branch(gid="g-2"), Phase.CANCEL)
        assert not stopping.done()
        leave.set()
        assert await confirming == Told("DONE")
        await stopping


async def test_stopping_without_grace_rolls_back_before_it_returns(scripted: Scripted) -> None:
    fence, rolled_back = MemoryFence(), asyncio.Event()
    entered = asyncio.Event()

    async def endless(request: Any, context: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            rolled_back.set()

    scripted.scripts[Phase.TRY] = endless
    server = make_server(scripted, fence)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        trying = asyncio.create_task(Grpc(channel).attempt(Branch()))
        await entered.wait()
        await server.stop(None)
        assert rolled_back.is_set()
        assert fence.record("default", "g-1", "0") is None
        assert (await trying).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_a_watcher_of_health_hears_of_the_end_and_does_not_hold_it_up(scripted: Scripted) -> None:
    server = make_server(scripted)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        astray = stub.Watch(health_pb2.HealthCheckRequest(service="no.Such"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await astray.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        async with asyncio.timeout(5):
            await server.stop(60)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_waiting_for_termination_ends_with_the_server(scripted: Scripted) -> None:
    server = make_server(scripted)
    await server.start()
    assert await server.wait_for_termination(timeout=0.01)
    await server.stop(None)
    assert not await server.wait_for_termination()
    await server.stop(None)  # again: nothing


async def test_running_closes_the_fence_when_it_is_cancelled(scripted: Scripted) -> None:
    closed, started = asyncio.Event(), asyncio.Event()

    class Closing(MemoryFence):
        async def close(self) -> None:
            closed.set()

    running = asyncio.create_task(make_server(scripted, Closing()).run(started=started.set))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert closed.is_set()


def test_a_server_may_be_made_before_there_is_an_event_loop(scripted: Scripted) -> None:
    server = make_server(scripted)

    async def life() -> Told:
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            told = await Grpc(channel).settle(Branch(), Phase.CANCEL)
        await server.stop(None)
        return told

    assert asyncio.run(life()) == Told("DONE")


async def test_the_mark_is_the_one_that_managers_look_for(channel: grpc.aio.Channel, scripted: Scripted) -> None:
    async def refuse(request: Any, context: Any) -> None:
        raise tcc.Refused("no")

    scripted.scripts[Phase.TRY] = refuse
    answer = await Grpc(channel).attempt(Branch())
    assert answer.trailers == ((wire.REFUSED, "1"),)
