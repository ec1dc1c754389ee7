"""Many orphans: taken over in batches, beside what is asked for meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from tcc_server.core.model import Key, State
from tcc_server.engine.adoption import BATCH
from tcc_server.log.memory import MemoryStore
from tcc_server.log.seam import LogUnavailable, Row
from tests.engine.shell import RESERVED, Shell, ask, decided, scenario

ORPHANS = 5 * BATCH + 7


async def leave_open(count: int) -> MemoryStore:
    """A store with transactions whose replica died while their Try was unanswered."""
    shell = await Shell(replica="dead").start()
    calls = [shell.execute(ask("a"), key=Key("default", f"old-{number}")) for number in range(count)]
    await shell.until(lambda: len(shell.participants.calls) == count)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await shell.engine.abandon()
    await shell.log.close()
    return shell.store


@scenario
async def test_a_manager_serves_what_is_new_before_it_has_adopted_all_that_is_old() -> None:
    shell = await Shell(await leave_open(ORPHANS)).start()
    assert shell.engine.open_transactions == BATCH
    shell.participants.always = RESERVED
    assert await decided(shell.execute(ask("a"), key=Key("default", "new"))) is State.CONFIRMING
    assert shell.engine.open_transactions < ORPHANS
    await shell.until_time(5)
    assert {row.owner for row in shell.store.rows.values()} == {"r1"}
    await shell.engine.close()


@scenario
async def test_an_old_transaction_that_is_asked_for_before_it_is_adopted_has_one_answer() -> None:
    store = await leave_open(ORPHANS)
    last = max(store.rows.values(), key=lambda row: (row.wake_at or 0.0, row.key))
    shell = await Shell(store).start()
    shell.participants.always = RESERVED
    assert await decided(shell.execute(ask("a"), key=last.key)) is State.CONFIRMING
    assert len(shell.commands_of(last.key.gid)) == 1
    await shell.engine.close()


@scenario
async def test_adoption_goes_on_where_the_log_failed_in_the_middle() -> None:
    shell = Shell(await leave_open(ORPHANS))
    adopt, calls = shell.log.adopt, 0

    async def fail_once(limit: int) -> list[Row]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise LogUnavailable("the log rests")
        return list(await adopt(limit))

    shell.log.adopt = fail_once  # type: ignore[method-assign]  # the fault: the third batch fails
    with capture_logs() as said:
        await shell.start()
        await shell.until_time(10)
    assert shell.engine.open_transactions == ORPHANS
    assert [(entry["event"], entry.get("transactions")) for entry in said] == [
        ("adoption_failed", None),
        ("adopted", ORPHANS),
    ]
    await shell.engine.close()


@scenario
async def test_a_log_that_fails_at_the_start_fails_the_start() -> None:
    shell = Shell()

    async def fail(limit: int) -> list[Row]:
        raise LogUnavailable("the log rests")

    shell.log.adopt = fail  # type: ignore[method-assign]  # the fault
    with pytest.raises(LogUnavailable):
        await shell.start()
    await shell.engine.close()
