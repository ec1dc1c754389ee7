"""A bank as its own process: how it starts, and how it ends under load."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from sqlalchemy import create_engine, text

from services.accounts.v1 import accounts_pb2 as pb, accounts_pb2_grpc
from tests.accounts.bank import bank, metadata

DEBIT = pb.DebitRequest(account="ann", amount=1)


class Load:
    """Transfers that go on until the bank answers no more; remembers what each was told."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.tried: set[str] = set()
        self.confirmed: set[str] = set()
        self.unanswered: set[str] = set()
        self.flowing = asyncio.Event()

    async def run(self, worker: int) -> None:
        number = 0
        while True:
            number += 1
            gid = f"t-{worker}-{number}"
            try:
                await self._stub.TryDebit(DEBIT, metadata=metadata(gid, "try"))
                self.tried.add(gid)
                await self._stub.ConfirmDebit(DEBIT, metadata=metadata(gid, "confirm"))
                self.confirmed.add(gid)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise
                self.unanswered.add(gid)
                return
            if len(self.confirmed) >= 20:
                self.flowing.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load_drains_and_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    database = tmp_path / "bank.db"
    async with bank(database) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub: Any = accounts_pb2_grpc.AccountsStub(channel)
        await stub.OpenAccount(pb.OpenAccountRequest(account="ann", available=1_000_000))
        load = Load(stub)
        workers = [asyncio.create_task(load.run(worker)) for worker in range(8)]
        await load.flowing.wait()

        told_at = time.monotonic()
        running.process.send_signal(number)
        running.process.send_signal(number)  # impatience changes nothing
        assert await running.process.wait() == 0
        assert time.monotonic() - told_at < 10
        await asyncio.gather(*workers)

    engine = create_engine(f"sqlite:///{database}")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT gid, state FROM tcc_fence")).all()
        available, reserved = connection.execute(text("SELECT available, reserved FROM accounts")).one()
    engine.dispose()
    states = {row.gid: row.state for row in rows}
    confirmed = {gid for gid, state in states.items() if state == "CONFIRMED"}

    assert load.confirmed <= confirmed  # what was told, is
    assert load.tried <= set(states)
    assert set(states) <= load.tried | load.unanswered  # and nothing else was done
    assert reserved == sum(state == "TRIED" for state in states.values())
    assert available == 1_000_000 - len(states)


async def test_it_says_where_it_serves(tmp_path: Path) -> None:
    async with bank(tmp_path / "bank.db") as running:
        assert running.first_line == f"bank-a serves accounts on {running.address}"
        assert running.address.startswith("127.0.0.1:")
        assert not running.address.endswith(":0")


async def test_what_was_reserved_is_there_after_a_kill(tmp_path: Path) -> None:
    database = tmp_path / "bank.db"
    async with bank(database) as killed, grpc.aio.insecure_channel(killed.address) as channel:
        stub: Any = accounts_pb2_grpc.AccountsStub(channel)
        await stub.OpenAccount(pb.OpenAccountRequest(account="ann", available=5))
        await stub.TryDebit(DEBIT, metadata=metadata("t-1", "try"))
        killed.process.kill()
        await killed.process.wait()
    async with bank(database) as again, grpc.aio.insecure_channel(again.address) as channel:
        stub = accounts_pb2_grpc.AccountsStub(channel)
        await stub.ConfirmDebit(DEBIT, metadata=metadata("t-1", "confirm"))
        account = await stub.GetAccount(pb.GetAccountRequest(account="ann"))
    assert (account.available, account.reserved) == (4, 0)


async def test_a_port_in_use_ends_it_with_a_message_that_names_the_address(tmp_path: Path) -> None:
    async with bank(tmp_path / "a.db") as running:
        with pytest.raises(AssertionError, match=f"cannot listen on {running.address}: the port is in use"):
            async with bank(tmp_path / "b.db", listen=running.address):
                pass
