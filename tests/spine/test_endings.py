"""SIGTERM under load: drains, exits with 0 in time, and every client was told the truth or nothing."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import tcc
from tcc.v1 import manager_pb2, manager_pb2_grpc
from tcc_server.config import Config, as_toml
from tests.spine.installation import OPENING, Bank, Installation, config, credit, debit, running, transfer
from tests.spine.processes import ROOT, free_port
from tests.spine.traffic import answers, never_answers

WITHIN = 10.0
"""Seconds in which a process that was told to end has ended."""


@asynccontextmanager
async def tcc_server(settings: Config, folder: Path) -> AsyncIterator[Process]:
    """`tcc server`, serving."""
    file = folder / "tcc.toml"
    file.write_text(as_toml(settings))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tcc", "server", "--config", str(file), cwd=ROOT, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def exit_code(process: Process, number: signal.Signals = signal.SIGTERM) -> int:
    """The exit code after a signal; it must come in time."""
    began = time.monotonic()
    process.send_signal(number)
    code = await process.wait()
    assert time.monotonic() - began < WITHIN
    return code


class Load:
    """Clients that transfer one cent after the other until they cannot, and remember what they were told."""

    def __init__(self, manager: tcc.Manager) -> None:
        self._manager = manager
        self.told: dict[str, tcc.Decision | None] = {}
        self.flowing = asyncio.Event()
        self.over = False

    async def run(self, worker: int) -> None:
        number = 0
        while not self.over:
            number += 1
            gid = f"t-{worker}-{number}"
            amount = OPENING * 2 if number % 4 == 0 else 1
            try:
                await self._manager.execute(*transfer(amount), gid=gid, timeout=2)
                self.told[gid] = tcc.Decision.CONFIRM
            except tcc.TransactionCancelled:
                self.told[gid] = tcc.Decision.CANCEL
            except tcc.OutcomeUnknown:
                self.told[gid] = None
            except tcc.ManagerUnavailable:
                return
            if len(self.told) > 60:
                self.flowing.set()


async def test_sigterm_of_the_manager_under_load_leaves_nothing_half_told(
    tmp_path: Path, banks: tuple[Bank, Bank]
) -> None:
    port = free_port()
    settings = config(tmp_path, *banks, listen=f"127.0.0.1:{port}")
    async with tcc.Manager(f"127.0.0.1:{port}", connect_timeout=0.5, margin=0.2) as client:
        load = Load(client)
        async with tcc_server(settings, tmp_path) as process:
            workers = [asyncio.create_task(load.run(worker)) for worker in range(12)]
            await load.flowing.wait()
            assert await exit_code(process) == 0
        load.over = True
        await asyncio.gather(*workers)
    async with running(settings) as (app, client):
        told = {gid: decision for gid, decision in load.told.items() if decision is not None}
        assert {gid: (await client.get(gid)).decision for gid in told} == told
        assert {*told.values()} == {tcc.Decision.CONFIRM, tcc.Decision.CANCEL}
        await Installation(*banks, client, app.listen).check()


async def _execute_completed(client: tcc.Manager, banks: tuple[Bank, Bank]) -> asyncio.Task[None]:
    async def call() -> None:
        with suppress(tcc.OutcomeUnknown):  # unless its time was over before the manager's
            done = await client.execute(*transfer(70), gid="t-1", timeout=2, wait=tcc.COMPLETED)
            assert done.state is tcc.State.CONFIRMING

    banks[1].traffic.always("ConfirmCredit", never_answers)
    task = asyncio.create_task(call())
    await banks[1].traffic.until("ConfirmCredit")
    return task


async def _hung_try(client: tcc.Manager, banks: tuple[Bank, Bank]) -> asyncio.Task[None]:
    async def call() -> None:
        with pytest.raises(tcc.OutcomeUnknown):
            await client.execute(*transfer(70), gid="t-1", timeout=12)

    banks[0].traffic.always("TryDebit", never_answers)
    task = asyncio.create_task(call())
    await banks[0].traffic.until("TryDebit")
    return task


async def _watch(client: tcc.Manager, banks: tuple[Bank, Bank]) -> asyncio.Task[None]:
    seen = asyncio.Event()

    async def watches() -> None:
        async for _ in client.watch("t-1", timeout=0.5):
            seen.set()

    async def call() -> None:
        with pytest.raises((tcc.ManagerUnavailable, tcc.UsageError)):  # or the client was closed before it gave up
            await watches()

    banks[1].traffic.always("ConfirmCredit", never_answers)
    await client.execute(*transfer(70), gid="t-1")
    task = asyncio.create_task(call())
    await seen.wait()
    return task


@pytest.mark.parametrize("busy", [_execute_completed, _hung_try, _watch], ids=["completed", "hung try", "watch"])
async def test_sigterm_does_not_wait_for_what_cannot_end(
    tmp_path: Path,
    banks: tuple[Bank, Bank],
    busy: Callable[[tcc.Manager, tuple[Bank, Bank]], Awaitable[asyncio.Task[None]]],
) -> None:
    port = free_port()
    bounds = {} if busy is _hung_try else {"drain_timeout": 1.0}  # the default once, and not the whole of it each time
    settings = config(tmp_path, *banks, listen=f"127.0.0.1:{port}", **bounds)
    client = tcc.Manager(f"127.0.0.1:{port}", margin=0.2)
    async with tcc_server(settings, tmp_path) as process:
        task = await busy(client, banks)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
            assert await exit_code(process) == 0
            assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watched.cancel()
    await client.close()
    await task
    for bank in banks:
        bank.traffic.always("ConfirmCredit", None)
        bank.traffic.always("TryDebit", None)
    async with running(settings) as (app, again):
        await Installation(*banks, again, app.listen).check()


async def test_sigterm_of_a_participant_under_load_loses_and_doubles_nothing(
    tmp_path: Path, banks: tuple[Bank, Bank]
) -> None:
    bank_a = banks[0]
    await bank_a.stop()

    async def serve() -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.accounts", "--name", "bank-a"),
            *("--listen", bank_a.address, "--database", str(bank_a.database)),
            cwd=ROOT,
            stdout=PIPE,
            stderr=PIPE,
        )
        assert process.stdout is not None
        assert re.search(rb":\d+$", (await process.stdout.readline()).strip())
        return process

    process = await serve()
    async with running(config(tmp_path, *banks)) as (app, client):
        load = Load(client)
        workers = [asyncio.create_task(load.run(worker)) for worker in range(12)]
        await load.flowing.wait()
        assert await exit_code(process) == 0
        load.over = True
        await process.communicate()
        process = await serve()
        try:
            await asyncio.gather(*workers)
            assert None not in load.told.values()
            await Installation(*banks, client, app.listen).check()
        finally:
            process.kill()
            await process.communicate()


async def test_a_draining_manager_begins_nothing_and_finishes_what_it_began(
    tmp_path: Path, banks: tuple[Bank, Bank]
) -> None:
    async with running(config(tmp_path, *banks)) as (app, client):
        go = asyncio.Event()

        async def slowly(serve: Callable[[], Awaitable[bytes]], context: object) -> bytes:
            await go.wait()
            return await serve()

        banks[0].traffic.next("TryDebit", slowly)
        begun = asyncio.create_task(client.execute(*transfer(70), gid="t-1"))
        await banks[0].traffic.until("TryDebit")
        stopping = asyncio.create_task(app.stop())
        async with grpc.aio.insecure_channel(app.listen) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            status = health_pb2.HealthCheckResponse.SERVING
            while status == health_pb2.HealthCheckResponse.SERVING:
                status = (await health.Check(health_pb2.HealthCheckRequest())).status
            stub = manager_pb2_grpc.TransactionManagerStub(channel)
            request = manager_pb2.BeginRequest(gid="t-2")
            with pytest.raises(grpc.aio.AioRpcError, match="about to stop") as refused:
                await stub.Begin(request)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        go.set()
        assert (await begun).replies[0].available == OPENING - 70
        await stopping
    async with running(config(tmp_path, *banks)) as (app, client):
        with pytest.raises(tcc.ManagerError, match="no transaction t-2"):
            await client.get("t-2")
        await Installation(*banks, client, app.listen).check()


async def test_health_is_served_by_name_and_as_a_whole(installation: Installation) -> None:
    async with grpc.aio.insecure_channel(installation.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tcc.v1.TransactionManager"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("offered", [True, False])
async def test_reflection_is_offered_in_dev_alone(tmp_path: Path, banks: tuple[Bank, Bank], offered: bool) -> None:
    async with (
        running(config(tmp_path, *banks, reflection=offered)) as (app, _),
        grpc.aio.insecure_channel(app.listen) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        if not offered:
            with pytest.raises(grpc.aio.AioRpcError) as missing:
                await call.read()
            assert missing.value.code() is grpc.StatusCode.UNIMPLEMENTED
            return
        names = {service.name for service in (await call.read()).list_services_response.service}
        assert {"tcc.v1.TransactionManager", "grpc.health.v1.Health"} <= names


async def test_a_manager_stopped_in_the_middle_goes_on_after_the_next_start(
    tmp_path: Path, banks: tuple[Bank, Bank]
) -> None:
    """Recovery belongs to running, not to launching: what fails at the start goes on being tried."""
    async with running(config(tmp_path, *banks)) as (_, client):
        banks[1].traffic.always("ConfirmCredit", never_answers)
        await client.execute(debit("bank-a", 70), credit("bank-b", 70), gid="t-1")
    banks[1].traffic.always("ConfirmCredit", answers(grpc.StatusCode.UNAVAILABLE, "not yet"))
    before = len(banks[1].traffic.calls("ConfirmCredit"))
    async with running(config(tmp_path, *banks)) as (app, client):
        await banks[1].traffic.until("ConfirmCredit", before + 3)
        banks[1].traffic.always("ConfirmCredit", None)
        assert (await Installation(*banks, client, app.listen).ended("t-1")).state is tcc.State.CONFIRMED
        await Installation(*banks, client, app.listen).check()
