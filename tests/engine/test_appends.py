"""Rows on their way into the log: each verdict is told once, in its turn, and not at all once they are let go of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from tcc.batching import Answered
from tcc_server.core.messages import Answer, Write
from tcc_server.core.model import Key, Moment
from tcc_server.engine.appends import Append, Appends
from tcc_server.engine.live import Live
from tcc_server.log.memory import MemoryLog
from tcc_server.log.seam import LogConflict, Row
from tests.core.bench import Bench
from tests.log.rows import new_row


class Slow(MemoryLog):
    """Tells what a test says, when it says so."""

    def __init__(self) -> None:
        super().__init__(replica="r1")
        self.verdicts: list[Answered[None]] = []

    def write(self, row: Row, verdict: Answered[None]) -> None:
        self.verdicts.append(verdict)


class Told:
    """Who is told; fails at gids that a test names."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, BaseException | None]] = []
        self.fails_at: set[str] = set()

    def __call__(self, append: Append) -> None:
        gid = append.row.key.gid
        self.heard.append((gid, append.error))
        if gid in self.fails_at:
            raise ValueError("a bug")

    @property
    def gids(self) -> list[str]:
        return [gid for gid, _ in self.heard]


def start(appends: Appends, *gids: str) -> None:
    tx = Bench("a").tx
    for gid in gids:
        row = replace(new_row(), key=Key("default", gid))
        answer = Answer(tx, (), (), Write.BODY, Moment(0.0, 0.0), answered=0, wake=None)
        appends.start(Live(row.key), answer, row)


async def test_those_of_one_group_are_told_in_the_next_turn_in_their_order_each_with_its_own_verdict() -> None:
    log, told = Slow(), Told()
    appends = Appends(log, told)
    start(appends, "a", "b", "c")
    lost = LogConflict(Key("default", "b"), 3)
    log.verdicts[0].set_result(None)
    log.verdicts[1].set_exception(lost)
    log.verdicts[2].set_result(None)
    assert told.heard == []
    await asyncio.sleep(0)
    assert told.heard == [("a", None), ("b", lost), ("c", None)]
    assert len(appends) == 0


async def test_one_that_cannot_be_taken_keeps_no_other_from_being_told() -> None:
    log, told = Slow(), Told()
    appends = Appends(log, told)
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context["exception"]))
    start(appends, "a", "b", "c")
    told.fails_at = {"a", "b"}
    for verdict in log.verdicts:
        verdict.set_result(None)
    await asyncio.wait_for(appends.drain(), 5)
    assert told.gids == ["a", "b", "c"]
    assert len(failures) == 2


@pytest.mark.parametrize("kind", [Slow, lambda: MemoryLog(replica="r1")])
async def test_nobody_is_told_of_what_was_let_go_of_and_nobody_waits_for_it(kind: Callable[[], MemoryLog]) -> None:
    log, told = kind(), Told()
    await log.open()
    appends = Appends(log, told)
    start(appends, "a", "b")
    appends.drop()
    if isinstance(log, Slow):
        assert all(verdict.done() for verdict in log.verdicts)  # so that those that wait are not written
        for verdict in log.verdicts:
            verdict.set_result(None)
    await asyncio.wait_for(appends.drain(), 5)
    await log.close()
    assert told.heard == []
    assert len(appends) == 0


async def test_draining_waits_for_all_also_of_a_log_that_gives_futures() -> None:
    told = Told()
    async with asyncio.timeout(5):
        log = MemoryLog(replica="r1")
        await log.open()
        appends = Appends(log, told)
        start(appends, "a", "b")
        waits = [asyncio.create_task(appends.drain()) for _ in range(2)]
        waits[0].cancel()
        await waits[1]
        await log.close()
    assert sorted(told.heard) == [("a", None), ("b", None)]
