"""The doctor on participants, real servers: with the SDK and without."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from sqlalchemy import text

import tcc
from services.accounts.v1.accounts_pb2_grpc import add_AccountsServicer_to_server
from tcc.fence import Fence
from tcc_server.config import Participant
from tcc_server.doctor.finding import Finding, Level
from tcc_server.doctor.participants import check_participants
from tests.doctor.looks import levels, only, said
from tests.links.participant import Told
from tests.servers.process import free_port


@asynccontextmanager
async def served(name: str, fence: Fence) -> AsyncIterator[tuple[str, Told]]:
    """A participant of the SDK; gives its endpoint and what it was told to do."""
    told = Told()
    server = tcc.ParticipantServer("127.0.0.1:0", fence=fence, name=name)
    add_AccountsServicer_to_server(told, server)
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}", told
    finally:
        await server.stop(0)


@asynccontextmanager
async def plain_server() -> AsyncIterator[str]:
    """A service in plain grpcio, without the SDK and without a health service."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_AccountsServicer_to_server(Told(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.fixture
async def fence(tmp_path: Path) -> AsyncIterator[tcc.SqlFence]:
    fence = tcc.SqlFence(f"sqlite+aiosqlite:///{tmp_path}/bank.db")
    yield fence
    await fence.close()


async def look(name: str, endpoint: str, *, bridged: bool = False) -> list[Finding]:
    return await check_participants({name: Participant(endpoint=endpoint, bridged=bridged)})


async def test_a_participant_that_works_is_well_and_nothing_is_run_or_written(fence: tcc.SqlFence) -> None:
    await fence.create_tables()
    async with served("bank", fence) as (endpoint, told):
        findings = await look("bank", endpoint)
    assert levels(findings) == {Level.OK}
    for part in ("SERVING", "its actions are", "its fence works"):
        assert part in said(findings)
    assert not told.runs
    async with fence.engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM tcc_fence")) == 0


async def test_a_fence_without_its_table_is_a_problem_that_says_how_to_make_it(fence: tcc.SqlFence) -> None:
    async with served("bank", fence) as (endpoint, _):
        finding = only(await look("bank", endpoint), Level.PROBLEM)
    assert "its fence does not work" in finding.found
    assert "tcc fence-ddl" in finding.mend


async def test_a_fence_with_a_table_of_an_older_version_is_a_problem_that_says_what_to_add(fence: tcc.SqlFence) -> None:
    await fence.create_tables()
    async with fence.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE tcc_fence DROP COLUMN expires_at"))
    async with served("bank", fence) as (endpoint, _):
        finding = only(await look("bank", endpoint), Level.PROBLEM)
    assert "older version" in finding.found
    assert "ALTER TABLE tcc_fence ADD COLUMN expires_at BIGINT" in finding.found


async def test_a_database_that_is_away_is_a_problem() -> None:
    fence = tcc.SqlFence(f"postgresql+asyncpg://nobody@127.0.0.1:{free_port()}/nowhere")
    try:
        async with served("bank", fence) as (endpoint, _):
            finding = only(await look("bank", endpoint), Level.PROBLEM)
    finally:
        await fence.close()
    assert "its fence does not work" in finding.found


async def test_one_that_is_down_is_a_problem_and_hides_nobody_else() -> None:
    async with served("bank", tcc.MemoryFence()) as (endpoint, _):
        findings = await check_participants(
            {"gone": Participant(endpoint=f"127.0.0.1:{free_port()}"), "bank": Participant(endpoint=endpoint)}
        )
    finding = only(findings, Level.PROBLEM)
    assert finding.subject == "participant gone"
    assert "UNAVAILABLE" in finding.found
    assert "participant bank: its fence works" in said(findings)


async def test_one_of_another_name_is_a_problem_that_says_both(fence: tcc.SqlFence) -> None:
    async with served("bank-b", tcc.MemoryFence()) as (endpoint, _):
        finding = only(await look("bank-a", endpoint), Level.PROBLEM)
    assert f"{endpoint} calls itself bank-b: commands for bank-a would not reach it" in finding.found


async def test_one_without_the_sdk_has_to_be_called_bridged() -> None:
    async with plain_server() as endpoint:
        assert "bridged = true" in only(await look("bank", endpoint), Level.PROBLEM).mend
        assert levels(await look("bank", endpoint, bridged=True)) == {Level.OK}


async def test_one_of_the_sdk_must_not_be_called_bridged() -> None:
    async with served("bank", tcc.MemoryFence()) as (endpoint, _):
        assert "both consume" in only(await look("bank", endpoint, bridged=True), Level.WARNING).found


async def test_no_participants_at_all_is_a_warning() -> None:
    assert "none is configured" in only(await check_participants({}), Level.WARNING).found


async def test_one_that_says_that_it_does_not_serve_is_a_problem() -> None:
    async with AsyncExitStack() as running:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        running.push_async_callback(server.stop, 0)
        finding = only(await look("bank", f"127.0.0.1:{port}", bridged=True), Level.PROBLEM)
    assert "NOT_SERVING" in finding.found
