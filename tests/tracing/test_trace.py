"""One trace a transaction: its spans, their parents, kinds, statuses and attributes, as an OTLP receiver sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub, add_AccountsServicer_to_server
from tcc.tracing.export import Exporter
from tcc_server.app import ManagerApp
from tcc_server.config import Config, Participant, Tracing
from tests.links.participant import Told
from tests.tracing.receiver import Receiver, Seen, receiver

DEBIT = pb.DebitRequest(account="a", amount=1)
ACCOUNTS = "services.accounts.v1.Accounts"
MANAGER = "tcc.v1.TransactionManager"


class Installation:
    """A manager, two participants, and exporters of each to one receiver."""

    def __init__(self, stack: AsyncExitStack, received: Receiver, folder: Path) -> None:
        self._stack, self.received, self._folder = stack, received, folder
        self.told = {"x": Told(), "y": Told()}
        self._participants: dict[str, Participant] = {}
        self._closers: list[Callable[[], Awaitable[object]]] = []
        self.client = self._exporter("client")
        self.app: ManagerApp | None = None

    def _exporter(self, service: str) -> Exporter:
        exporter = Exporter(service, self.received.endpoint)
        self._stack.push_async_callback(exporter.close)
        self._closers.append(exporter.flush)
        return exporter

    async def start(self) -> None:
        for name, service in self.told.items():
            server = tcc.ParticipantServer(
                "127.0.0.1:0", fence=tcc.MemoryFence(), name=name, tracer_provider=self._exporter(name).provider
            )
            add_AccountsServicer_to_server(service, server)
            await server.start()
            self._stack.push_async_callback(server.stop, 0)
            self._participants[name] = Participant(endpoint=f"127.0.0.1:{server.port}")
        await self.start_manager()

    async def start_manager(self) -> ManagerApp:
        config = Config(
            listen="127.0.0.1:0",
            log=f"sqlite:///{self._folder / 'tcc.db'}",
            participants=self._participants,
            tracing=Tracing(otlp=self.received.endpoint),
        )
        self.app = ManagerApp(config)
        await self.app.start()
        self._stack.push_async_callback(self.app.stop)
        return self.app

    def manager(self) -> tcc.Manager:
        assert self.app is not None
        return tcc.Manager(f"127.0.0.1:{self.app.port}", tracer_provider=self.client.provider)

    async def spans(self, count: int) -> list[Seen]:
        for flush in self._closers:
            await flush()
        return await self.received.until(lambda spans: len(spans) >= count)


@pytest.fixture(name="all_of_it")
async def _all_of_it(tmp_path: Path) -> AsyncIterator[Installation]:
    async with AsyncExitStack() as stack:
        received = await stack.enter_async_context(receiver())
        made = Installation(stack, received, tmp_path)
        await made.start()
        yield made


def _plan() -> list[Any]:
    return [AccountsStub(tcc.plan.participant(name)).TryDebit(DEBIT) for name in ("x", "y")]


async def test_a_confirmed_plan_is_one_tree(all_of_it: Installation) -> None:
    async with all_of_it.manager() as manager:
        done = await manager.execute(*_plan(), wait=tcc.COMPLETED)
    spans = await all_of_it.spans(11)
    assert {span.trace for span in spans} == {spans[0].trace}
    assert all_of_it.received.tree(spans[0].trace) == [
        f"client client {MANAGER}/Execute",
        f"  tcc-manager server {MANAGER}/Execute",
        f"    tcc-manager client {ACCOUNTS}/ConfirmDebit",
        f"      x server {ACCOUNTS}/ConfirmDebit",
        f"    tcc-manager client {ACCOUNTS}/ConfirmDebit",
        f"      y server {ACCOUNTS}/ConfirmDebit",
        f"    tcc-manager client {ACCOUNTS}/TryDebit",
        f"      x server {ACCOUNTS}/TryDebit",
        f"    tcc-manager client {ACCOUNTS}/TryDebit",
        f"      y server {ACCOUNTS}/TryDebit",
        "    tcc-manager internal tcc decide",
    ]
    assert {span.attributes["tcc.gid"] for span in spans} == {done.gid}
    assert not [span for span in spans if span.is_error]


async def test_every_span_says_which_branch_phase_and_attempt_it_is(all_of_it: Installation) -> None:
    async with all_of_it.manager() as manager:
        await manager.execute(*_plan(), wait=tcc.COMPLETED)
    spans = await all_of_it.spans(11)
    of_branches = {
        (s.service, s.attributes["tcc.branch"], s.attributes["tcc.phase"], s.attributes["tcc.attempt"])
        for s in spans
        if s.service in ("x", "y")
    }
    assert of_branches == {
        ("x", "0", "try", 1),
        ("x", "0", "confirm", 1),
        ("y", "1", "try", 1),
        ("y", "1", "confirm", 1),
    }
    tries = [s for s in spans if s.name.endswith("/TryDebit") and s.service == "tcc-manager"]
    assert {(s.attributes["rpc.system.name"], s.attributes["rpc.response.status_code"]) for s in tries} == {
        ("grpc", "OK")
    }


async def test_a_refused_try_is_no_error_and_the_cancel_is_in_the_trace(all_of_it: Installation) -> None:
    async def refuse(context: Any) -> None:
        raise tcc.Refused("no money")

    all_of_it.told["y"].on_try = refuse
    async with all_of_it.manager() as manager:
        with pytest.raises(tcc.TransactionCancelled) as stopped:
            await manager.execute(*_plan(), wait=tcc.COMPLETED)
    spans = await all_of_it.spans(9)
    assert {span.trace for span in spans} == {spans[0].trace}
    refused = [s for s in spans if s.service == "y" and s.name == f"{ACCOUNTS}/TryDebit"]
    assert [(s.is_error, s.attributes["rpc.response.status_code"]) for s in refused] == [(False, "FAILED_PRECONDITION")]
    assert [s.service for s in spans if s.name == f"{ACCOUNTS}/CancelDebit" and s.kind == "server"] == ["x"]
    [decision] = [s for s in spans if s.name == "tcc decide"]
    assert decision.attributes["tcc.decision"] == "cancel"
    assert decision.attributes["tcc.gid"] == stopped.value.gid


async def test_a_fault_is_an_error_and_each_attempt_has_its_span(all_of_it: Installation) -> None:
    failures = [2]

    async def fail(context: Any) -> None:
        if failures[0]:
            failures[0] -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    all_of_it.told["x"].on_confirm = fail
    async with all_of_it.manager() as manager:
        await manager.execute(*_plan(), wait=tcc.COMPLETED)
    spans = await all_of_it.spans(15)
    confirms = [s for s in spans if s.service == "x" and s.name == f"{ACCOUNTS}/ConfirmDebit"]
    assert sorted((s.attributes["tcc.attempt"], s.is_error) for s in confirms) == [(1, True), (2, True), (3, False)]


async def test_an_interactive_transaction_of_a_client_that_traces_nothing_is_one_trace(
    all_of_it: Installation,
) -> None:
    assert all_of_it.app is not None
    async with (
        tcc.Manager(f"127.0.0.1:{all_of_it.app.port}") as manager,
        manager.transaction("t", wait=tcc.COMPLETED) as tx,
    ):
        for name in ("x", "y"):
            await AccountsStub(tx.channel.participant(name)).TryDebit(DEBIT)
    spans = await all_of_it.spans(13)
    assert len({span.trace for span in spans}) == 1
    assert {"Begin", "Try", "Confirm"} <= {span.name.rpartition("/")[2] for span in spans}


async def test_the_trace_goes_on_after_a_restart_of_the_manager(all_of_it: Installation) -> None:
    async def down(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "down")

    all_of_it.told["x"].on_confirm = down
    async with all_of_it.manager() as manager:
        done = await manager.execute(*_plan())
    assert all_of_it.app is not None
    await all_of_it.app.stop()
    all_of_it.told["x"].on_confirm = Told().on_confirm
    await all_of_it.start_manager()
    async with all_of_it.manager() as manager:
        async for seen in manager.watch(done.gid):
            last = seen.state
    assert last is tcc.State.CONFIRMED
    spans = [span for span in await all_of_it.spans(12) if "/Watch" not in span.name]
    assert len({span.trace for span in spans if span.attributes.get("tcc.gid") == done.gid}) == 1
    assert [s for s in spans if s.service == "x" and s.name.endswith("/ConfirmDebit") and not s.is_error]


async def test_a_receiver_that_is_gone_fails_nothing(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        received = Receiver()
        received.endpoint = "http://127.0.0.1:1"
        made = Installation(stack, received, tmp_path)
        await made.start()
        async with made.manager() as manager:
            done = await manager.execute(*_plan(), wait=tcc.COMPLETED)
        assert done.state is tcc.State.CONFIRMED
