"""What the benchmark counts, apart from the toolkit: rows and commits of SQLite, lists, and shares a transaction."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.counted import items_in
from benchmarks.counts import COMMITS, ROWS, Counts, Tally, each
from benchmarks.filling import fill
from benchmarks.load import Meter, closed_loops, open_loop
from tcc.v1 import participant_pb2
from tcc_server.core.model import Decision, Moment, Settlement, State
from tcc_server.log.codec import decode
from tcc_server.log.seam import Filter
from tcc_server.log.sqlite import SqliteLog
from tests.benchmarks import writing


def test_only_commits_that_wrote_something_count_with_their_rows(tmp_path: Path) -> None:
    file = tmp_path / "counts"
    module = writing.__name__
    subprocess.run(
        (sys.executable, "-m", "benchmarks.counted", str(file), module, str(tmp_path / "written.db")), check=True
    )
    tally = Tally(file)
    assert (tally.numbers[COMMITS], tally.numbers[ROWS]) == (writing.COMMITS, writing.ROWS)


def test_a_tally_is_shared_through_its_file(tmp_path: Path) -> None:
    one, other = Tally(tmp_path / "counts"), Tally(tmp_path / "counts")
    place = one.hop("TryStream")
    one.numbers[place] += 2
    one.numbers[place + 1] += 9
    other.numbers[other.hop("TryStream answers")] += 1
    assert other.hop("TryStream") == place
    assert other.hops() == {"TryStream": (2, 9), "TryStream answers": (1, 0)}


def test_a_tally_with_more_hops_than_places_goes_on_counting(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "counts")
    assert len({tally.hop(f"hop {number}") for number in range(100)}) == len(tally.hops())


@pytest.mark.parametrize("items", [0, 1, 3, 200])
def test_items_of_a_list_are_counted_in_its_bytes(items: int) -> None:
    commands = [participant_pb2.Command(gid=f"t-{number}", attempt=number) for number in range(items)]
    message = participant_pb2.CommandList(commands=commands)
    assert items_in(message) == items
    assert items_in(message.SerializeToString()) == items


def test_costs_are_differences_divided_by_transactions() -> None:
    before = Counts(10, 0, 100, {"log": 5}, None, 7, {"log batches": (2, 2)})
    after = Counts(30, 40, 160, {"log": 25, "fences": 20}, None, 87, {"log batches": (4, 12), "locks": (2, 3)})
    cost = each(before, after, 20)
    assert (cost.rpcs, cost.messages, cost.row_writes, cost.redis_calls) == (1.0, 2.0, 3.0, 4.0)
    assert cost.amqp_messages is None
    assert cost.fsyncs == {"log": 1.0, "fences": 1.0}
    assert cost.lists == {"log batches": 5.0, "locks": 1.5}


async def test_latency_counts_from_the_time_at_which_a_call_was_to_arrive() -> None:
    """A client that is held up is late with all that was to arrive meanwhile, and says so."""
    meter = Meter(0.5)
    held_up = 0.2

    async def call(number: int) -> None:
        if number == 50:  # well after the warm-up
            loop = asyncio.get_running_loop()
            until = loop.time() + held_up
            while loop.time() < until:  # holds up the event loop on purpose
                pass

    await open_loop(call, 200.0, meter)
    figures = meter.figures({})
    assert figures.p99_ms > 1000 * held_up / 2
    assert figures.p50_ms < figures.p99_ms


async def test_an_open_loop_gives_up_where_calls_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load._LATE", 10)
    never = asyncio.Event()

    async def call(_: int) -> None:
        await never.wait()

    with pytest.raises(ExceptionGroup) as raised:
        await open_loop(call, 1000.0, Meter(5.0))
    assert raised.group_contains(RuntimeError, match="too many")


async def test_closed_loops_end_with_their_numbers() -> None:
    called = []

    async def call(number: int) -> None:
        await asyncio.sleep(0)
        called.append(number)

    await closed_loops(call, 3, Meter(60.0), iter(range(10)))
    assert sorted(called) == list(range(10))


async def test_a_log_is_filled_with_transactions_that_the_manager_takes_for_finished(tmp_path: Path) -> None:
    path = tmp_path / "filled.db"
    log = SqliteLog(path, replica="one")
    await log.open()
    await log.close()
    fill(path, 25)
    log = SqliteLog(path, replica="two")
    await log.open()
    try:
        assert await log.adopt(10) == []
        page = await log.list(Filter("default", [State.CONFIRMED]), 100)
        loaded = await log.load([row.key for row in page.rows])
    finally:
        await log.close()
    assert len(loaded) == 25
    for row in loaded.values():
        tx = decode(row, Moment(0.0, row.begun_at))
        assert tx.decision is Decision.CONFIRM
        assert [branch.settlement for branch in tx.branches] == [Settlement.DONE] * 2
