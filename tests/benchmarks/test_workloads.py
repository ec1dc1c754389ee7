"""Each workload for a handful of transactions, on real servers: all end as asked, the counts are what they must be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest

from benchmarks import servers
from benchmarks.installation import Installation, MoneyLost, installed
from benchmarks.measuring import Closed, Open, Some, measured_row
from benchmarks.results import Row
from benchmarks.servers import Servers
from benchmarks.workloads import WORKLOADS
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import AccountsStub

COUNT = 20


@pytest.fixture(scope="module")
def running(servers_folder: Path) -> Iterator[Servers]:
    servers.check(list(WORKLOADS.values()))
    made = Servers(_made(servers_folder, "benchmarks"))
    yield made
    asyncio.run(made.stop())


@pytest.fixture
def folder(servers_folder: Path, request: pytest.FixtureRequest) -> Path:
    return _made(servers_folder, request.node.name)


def _made(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    made.chmod(0o755)  # PostgreSQL has a user of its own
    return made


async def _few(installation: Installation, *names: str) -> dict[str, Row]:
    """A handful of each of these workloads, which share an installation."""
    rows = {}
    counts = await installation.counters.read()
    for name in names:
        as_asked = replace(installation, workload=WORKLOADS[name])
        rows[name], counts = await measured_row(as_asked, counts, Some(2, COUNT))
    return rows


@pytest.fixture(scope="module")
def full(running: Servers, servers_folder: Path) -> dict[str, Row]:
    """A row of each workload whose stack is W2's."""

    async def run() -> dict[str, Row]:
        async with installed(WORKLOADS["W2"], running, _made(servers_folder, "full")) as installation:
            return await _few(installation, "W2", "W5", "W6", "W8")

    return asyncio.run(run())


def test_w1_coordination_needs_neither_broker_nor_locks(running: Servers, folder: Path) -> None:
    async def run() -> Row:
        async with installed(WORKLOADS["W1"], running, folder) as installation:
            return (await _few(installation, "W1"))["W1"]

    row = asyncio.run(run())
    assert row.ends == {"confirmed": COUNT, "refused": 0}
    assert row.transactions == COUNT
    assert set(row.cpu_ms) == {"client", "manager", "noop"}
    assert row.row_writes is not None
    assert 3.0 <= row.row_writes < 6.0  # begun, decided, finished; outcomes too where a slow machine takes a second
    assert 0 < row.fsyncs["log"] <= row.row_writes
    assert row.fsyncs["fences"] == 0
    assert (row.amqp_messages, row.redis_calls) == (None, None)
    assert row.rpcs + row.messages > 0


def test_w2_full_stack_counts_what_each_server_did(full: dict[str, Row]) -> None:
    row = full["W2"]
    assert row.ends == {"confirmed": COUNT, "refused": 0}
    assert set(row.cpu_ms) == {"client", "manager", "noop", "rabbitmq", "redis"}
    assert row.row_writes is not None
    assert row.row_writes >= 3 + 2 * 2  # the log's three, and each branch's Try and Confirm
    assert min(row.fsyncs["log"], row.fsyncs["fences"], row.fsyncs["rabbitmq"]) > 0
    assert row.amqp_messages is not None
    assert 0 < row.amqp_messages <= 4.5  # at most a command and an outcome a branch, and repeats
    assert row.redis_calls is not None
    assert 0 < row.redis_calls <= 2 * 2 * 2  # each phase of each branch takes a lock and gives it back, in lists
    assert row.lists["rows a log commit"] >= 1
    assert row.lists["log batches"] >= 1
    assert row.lists["lock batches"] > 1  # keys, which come in bunches: two Tries of a plan are one


def test_w5_ten_branches_are_each_reserved_and_confirmed(full: dict[str, Row]) -> None:
    row = full["W5"]
    assert row.ends == {"confirmed": COUNT, "refused": 0}
    assert row.redis_calls is not None
    assert 0 < row.redis_calls <= 2 * 2 * 10


def test_w6_refuses_three_in_ten(full: dict[str, Row]) -> None:
    assert full["W6"].ends == {"confirmed": COUNT * 7 // 10, "refused": COUNT * 3 // 10}


def test_w8_asks_for_one_thing_after_the_other_in_lists(full: dict[str, Row]) -> None:
    row = full["W8"]
    assert row.ends == {"confirmed": COUNT, "refused": 0}
    assert row.rpcs < 1
    assert row.messages >= 4  # begin, two Tries, confirm: four lists and their answers, which two clients may share


def test_w3_and_w4_move_as_much_money_as_was_confirmed_and_notice_what_is_not_there(
    running: Servers, folder: Path
) -> None:
    async def run() -> None:
        async with installed(WORKLOADS["W3"], running, folder, patient=False) as installation:
            before = await _available(installation, "bank-a"), await _available(installation, "bank-b")
            rows = await _few(installation, "W3", "W4")
            for row in rows.values():
                assert row.ends == {"confirmed": COUNT, "refused": 0}
                assert set(row.cpu_ms) == {"client", "manager", "bank-a", "bank-b", "rabbitmq", "redis", "postgres"}
                assert row.row_writes is None  # nobody had the patience to ask PostgreSQL
            after = await _available(installation, "bank-a"), await _available(installation, "bank-b")
            assert after == (before[0] - 2 * COUNT, before[1] + 2 * COUNT)
            await installation.audit()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{installation.participants['bank-a'].port}") as channel:
                await AccountsStub(channel).OpenAccount(pb.OpenAccountRequest(account="from-nowhere", available=1))
            with pytest.raises(MoneyLost):
                await installation.audit()

    asyncio.run(run())


async def _available(installation: Installation, bank: str) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{installation.participants[bank].port}") as channel:
        return (await AccountsStub(channel).GetTotals(pb.GetTotalsRequest())).available


def test_w7_waits_for_the_slow_participant_once(running: Servers, folder: Path) -> None:
    async def run() -> Row:
        async with installed(WORKLOADS["W7"], running, folder) as installation:
            return (await _few(installation, "W7"))["W7"]

    row = asyncio.run(run())
    assert row.ends == {"confirmed": COUNT, "refused": 0}
    assert row.p50_ms >= 50
    assert {"noop", "slow"} < set(row.cpu_ms)


def test_loops_and_schedules_run_for_a_time_and_a_client_that_fails_ends_the_run(
    running: Servers, folder: Path
) -> None:
    async def run() -> list[Row]:
        async with installed(WORKLOADS["W1"].spread(2), running, folder) as installation:
            counts = await installation.counters.read()
            rows = []
            for load in (Closed(2, 0.5), Open(20.0, 1.0)):
                row, counts = await measured_row(installation, counts, load)
                rows.append(row)
            w1 = WORKLOADS["W1"]
            nobody = replace(w1, participants=(replace(w1.participants[0], name="nobody"),))
            with pytest.raises(RuntimeError, match="the load failed"):
                await measured_row(replace(installation, workload=nobody), counts, Some(1, 1))
            return rows

    closed, scheduled = asyncio.run(run())
    assert (closed.concurrency, closed.offered) == (2, 0.0)
    assert (scheduled.concurrency, scheduled.offered) == (0, 20.0)
    assert 5 < scheduled.transactions < 60  # 24 are due
    for row in (closed, scheduled):
        assert set(row.cpu_ms) == {"client", "manager", "noop-1", "noop-2"}
        assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms
        assert row.transactions == row.ends["confirmed"]


def test_w9_runs_beside_transactions_that_hang_and_counts_none_of_them(running: Servers, folder: Path) -> None:
    async def run() -> Row:
        async with installed(WORKLOADS["W9"], running, folder) as installation:
            return (await _few(installation, "W9"))["W9"]

    row = asyncio.run(run())
    assert row.ends == {"confirmed": COUNT, "refused": 0}
    assert row.transactions == COUNT
    assert row.p99_ms < 5_000  # those beside it take a Try's whole timeout
