"""The faulty log does what its faults say; whoever tests with it relies on that."""

from __future__ import annotations

import asyncio

import pytest

from tcc_server.log.memory import MemoryLog
from tcc_server.log.seam import LogRejected, LogUnknown
from tests.faults import Fault, FaultyLog
from tests.log.rows import new_row


@pytest.mark.parametrize(
    ("fault", "error", "is_written"),
    [
        (Fault.UNKNOWN_UNWRITTEN, LogUnknown, False),
        (Fault.UNKNOWN_WRITTEN, LogUnknown, True),
        (Fault.REJECTED, LogRejected, False),
    ],
)
async def test_an_append_meets_its_fault_once(fault: Fault, error: type[Exception], is_written: bool) -> None:
    log = FaultyLog(MemoryLog(replica="first"))
    await log.open()
    log.plan(Fault.NONE, fault)
    row = new_row("second")
    await log.append(new_row("first"))
    with pytest.raises(error):
        await log.append(row)
    assert (row.key in await log.load([row.key])) is is_written
    await log.append(row)
    assert [row.key.gid for row in log.appended] == ["first", "second", "second"]


@pytest.mark.parametrize(("fault", "is_written_while_held"), [(Fault.HELD, False), (Fault.HELD_AFTER, True)])
async def test_a_held_append_waits_for_its_release(fault: Fault, is_written_while_held: bool) -> None:
    log = FaultyLog(MemoryLog(replica="first"))
    await log.open()
    log.plan(fault)
    row = new_row()
    task = asyncio.create_task(log.append(row))
    await log.until_held()
    assert (row.key in await log.load([row.key])) is is_written_while_held
    assert not task.done()
    log.release()
    await task
    assert row.key in await log.load([row.key])
