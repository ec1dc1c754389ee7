"""A manager as a process has it, whose lease lapses: it drops everything, takes a new id, and serves on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from services.accounts.v1 import accounts_pb2 as pb, accounts_pb2_grpc
from tcc_server.app import ManagerApp, StartError
from tcc_server.config import Config, Participant
from tcc_server.log.migrate import migrate_postgres
from tests.participant.scripted import Scripted, make_server
from tests.servers.postgres import Postgres
from tests.servers.running import RunningPostgres

NAME = "services.accounts.v1.Accounts"


@pytest.fixture
async def url(postgres_server: Postgres | RunningPostgres) -> str:
    url = postgres_server.database()
    await migrate_postgres(url)
    return url


@pytest.fixture
async def bank() -> AsyncIterator[tcc.ParticipantServer]:
    server = make_server(Scripted())
    await server.start()
    yield server
    await server.stop(None)


def config(url: str, bank: tcc.ParticipantServer) -> Config:
    participants = {NAME: Participant(endpoint=f"127.0.0.1:{bank.port}")}
    return Config(listen="127.0.0.1:0", log=url, lease=1, participants=participants)


async def sql(url: str, statement: str) -> list[str]:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        result = await connection.execute(text(statement))
        rows = [str(row[0]) for row in result] if result.returns_rows else []
    await engine.dispose()
    return rows


async def transfer(port: int, gid: str) -> None:
    accounts = accounts_pb2_grpc.AccountsStub(tcc.plan)
    async with tcc.Manager(f"127.0.0.1:{port}") as manager:
        await manager.execute(accounts.TryDebit(pb.DebitRequest(account="a", amount=5)), gid=gid)


async def test_a_manager_whose_lease_lapsed_serves_on_under_a_new_id(url: str, bank: tcc.ParticipantServer) -> None:
    app = ManagerApp(config(url, bank))
    await app.start()
    await transfer(app.port, "before")
    (before,) = await sql(url, "SELECT id FROM tcc_replica")

    await sql(url, "UPDATE tcc_replica SET expires_at = now() - interval '1 second'")
    async with asyncio.timeout(20):
        while (await sql(url, "SELECT id FROM tcc_replica WHERE expires_at > now()")) in ([], [before]):
            pass
    await transfer(app.port, "after")
    await transfer(app.port, "before")

    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    await app.stop()
    assert await sql(url, "SELECT id FROM tcc_replica WHERE expires_at > now()") == []


async def test_a_manager_that_stops_while_it_has_no_lease_ends(
    own_postgres: Postgres, bank: tcc.ParticipantServer
) -> None:
    url = own_postgres.database()
    await migrate_postgres(url)
    app = ManagerApp(config(url, bank))
    await app.start()
    own_postgres.kill()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        async with asyncio.timeout(20):
            while (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING:
                pass
    async with asyncio.timeout(10):
        await app.stop()


async def test_two_managers_share_one_database(url: str, bank: tcc.ParticipantServer) -> None:
    first, second = ManagerApp(config(url, bank)), ManagerApp(config(url, bank))
    await first.start()
    await second.start()
    await asyncio.gather(*(transfer(app.port, f"g-{number}") for number in range(10) for app in (first, second)))
    assert await sql(url, "SELECT count(*) FROM tcc_transaction") == ["10"]
    await first.stop()
    await second.stop()


async def test_a_manager_without_its_database_says_why_it_cannot_start(bank: tcc.ParticipantServer) -> None:
    app = ManagerApp(config("postgresql://tcc:secret@127.0.0.1:1/tcc", bank))
    with pytest.raises(StartError, match="cannot be reached") as refused:
        await app.start()
    assert "secret" not in str(refused.value)
