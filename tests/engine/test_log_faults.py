"""What the engine does, and does not do, when the log does not say yes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tcc_server.core.model import Decision, State
from tcc_server.engine.errors import Rejected, UnknownTransaction, Unreadable, Unsettled
from tcc_server.log.memory import MemoryStore
from tcc_server.log.seam import Filter, Row
from tests.engine.shell import KEY, REFUSED, RESERVED, Shell, ask, decided, scenario
from tests.faults import Fault


@scenario
async def test_no_try_leaves_before_an_unknown_begin_is_settled() -> None:
    for fault in (Fault.UNKNOWN_UNWRITTEN, Fault.UNKNOWN_WRITTEN):
        shell = await Shell().start()
        shell.log.plan(fault, fault, Fault.HELD)
        call = shell.execute(ask("a"))
        await shell.quiet()
        assert not shell.participants.calls
        assert not call.done()
        shell.participants.always = RESERVED
        await asyncio.sleep(0.5)
        if fault is Fault.UNKNOWN_UNWRITTEN:  # appended again, and held there
            assert not shell.participants.calls
            shell.log.release()
        assert await decided(call) is State.CONFIRMING
        assert len(shell.participants.calls) == 1
        assert len({row.write_id for row in shell.log.appended if row.version == 1}) == 1
        await shell.engine.close()


@scenario
async def test_nobody_hears_of_an_unknown_decision_and_no_command_leaves_before_it_is_settled() -> None:
    for fault in (Fault.UNKNOWN_UNWRITTEN, Fault.UNKNOWN_WRITTEN):
        shell = await Shell().start()
        shell.log.plan(Fault.NONE, fault)
        shell.participants.always = RESERVED
        call = shell.execute(ask("a"))
        await shell.quiet()
        assert not call.done()
        assert not shell.courier.sent
        assert (await shell.engine.get(KEY)).decision is None
        assert await decided(call) is State.CONFIRMING
        assert shell.courier.steps == ["a"]
        assert len({row.write_id for row in shell.log.appended if row.version == 2}) == 1
        await shell.engine.close()


@scenario
async def test_a_cancel_that_comes_while_a_confirm_is_unknown_does_not_change_it() -> None:
    shell = await Shell().start()
    shell.log.plan(Fault.NONE, Fault.UNKNOWN_WRITTEN)
    shell.participants.always = RESERVED
    call = shell.execute(ask("a"))
    await shell.until(lambda: len(shell.log.appended) == 2)
    cancel = asyncio.create_task(shell.engine.cancel(KEY, "late"))
    assert await decided(call) is State.CONFIRMING
    with pytest.raises(Exception, match="was decided Confirm"):
        await cancel
    assert shell.stored.decision is Decision.CONFIRM
    await shell.engine.close()


@scenario
async def test_a_rejected_begin_is_told_and_leaves_nothing() -> None:
    shell = await Shell().start()
    shell.log.plan(Fault.REJECTED)
    call = shell.execute(ask("a"))
    with pytest.raises(Rejected, match="cannot be stored"):
        await call
    assert not shell.participants.calls
    assert not shell.store.rows
    assert shell.engine.open_transactions == 0
    shell.participants.always = RESERVED
    assert await decided(shell.execute(ask("a"))) is State.CONFIRMING  # the gid is free
    await shell.engine.close()


@scenario
async def test_a_rejected_decision_is_not_told_and_the_transaction_ends_all_the_same() -> None:
    shell = await Shell().start()
    shell.courier.answers = True
    shell.log.plan(Fault.NONE, Fault.REJECTED)
    shell.participants.always = RESERVED
    with pytest.raises(Unsettled):
        await shell.execute(ask("a"))
    assert not shell.courier.sent
    assert shell.stored.decision is None
    await asyncio.sleep(60)  # taken up again, or given up at the deadline
    assert shell.stored.state in (State.CONFIRMED, State.CANCELLED)
    assert shell.engine.open_transactions == 0
    await shell.engine.close()


@scenario
async def test_an_enlisting_that_is_rejected_sends_no_try() -> None:
    shell = await Shell().start()
    await shell.engine.begin(KEY, "", 30, ("", ""))
    shell.log.plan(Fault.REJECTED)
    with pytest.raises(Unsettled):
        await shell.engine.enlist(KEY, ask("a"))
    assert not shell.participants.calls
    shell.participants.always = RESERVED
    tx, _ = await shell.engine.enlist(KEY, ask("a"))  # the same again
    assert [branch.ask.step for branch in tx.branches] == ["a"]
    await shell.engine.close()


@scenario
async def test_who_loses_a_compare_and_set_performs_nothing_and_answers_from_the_row() -> None:
    shell = await Shell(MemoryStore()).start()
    call = shell.execute(ask("a"), ask("b"))
    await shell.until(lambda: len(shell.participants.calls) == 2)
    row = shell.store.rows[KEY]
    cancelled = await _cancelled_elsewhere(row.version)
    shell.store.rows[KEY] = cancelled
    shell.participants.answer("a")
    shell.participants.answer("b")  # it would be decided Confirm now
    tx = await call
    assert tx.decision is Decision.CANCEL
    assert tx.state is State.CANCELLED
    assert not shell.courier.sent
    assert shell.engine.open_transactions == 0
    assert shell.store.rows[KEY] == cancelled
    await shell.engine.close()


@scenario
async def test_the_tries_of_a_lost_transaction_are_given_up() -> None:
    shell = await Shell().start()
    call = shell.execute(ask("a"), ask("b"))
    await shell.until(lambda: len(shell.participants.calls) == 2)
    shell.store.rows[KEY] = await _cancelled_elsewhere(shell.store.rows[KEY].version)
    shell.participants.answer("a", REFUSED)
    assert await decided(call) is State.CANCELLED
    await shell.quiet()
    assert shell.participants.cancelled == ["b"]
    await shell.engine.close()


async def _cancelled_elsewhere(version: int) -> Row:
    """The row as another replica would leave it: cancelled, and at a later version."""
    elsewhere = await Shell(MemoryStore(), "r2").start()
    elsewhere.courier.answers = True
    call = elsewhere.execute(ask("a"), ask("b"))
    await elsewhere.until(lambda: len(elsewhere.participants.calls) == 2)
    await elsewhere.engine.cancel(KEY, "elsewhere")
    await call
    await elsewhere.until(lambda: elsewhere.store.rows[KEY].state.is_final)
    await elsewhere.engine.close()
    return replace(elsewhere.store.rows[KEY], version=version + 3)


@scenario
async def test_a_row_that_cannot_be_read_does_not_keep_the_others_from_being_taken_up() -> None:
    store = MemoryStore()
    first = await Shell(store).start()
    calls = [first.execute(ask("a"), key=KEY._replace(gid=f"t-{number}")) for number in range(3)]
    await first.until(lambda: len(first.participants.calls) == 3)
    for call in calls:
        call.cancel()
    store.expire("r1")
    await first.engine.close()
    broken = KEY._replace(gid="t-0")
    store.rows[broken] = replace(store.rows[broken], body=b"\xff\xff\xff", wake_at=0.0)

    second = Shell(store, "r2")
    second.participants.always = RESERVED
    second.courier.answers = True
    await second.start()
    others = [KEY._replace(gid=gid) for gid in ("t-1", "t-2")]
    await second.until(lambda: {store.rows[key].state for key in others} == {State.CONFIRMED})
    with pytest.raises(Unreadable, match="t-0"):
        await second.engine.get(broken)
    with pytest.raises(Unreadable, match="t-0"):
        await second.execute(ask("a"), key=broken)
    found, _ = await second.engine.list(Filter("default"), 10, None)
    assert {tx.key.gid for tx in found} == {"t-0", "t-1", "t-2"}  # a list needs no bodies
    with pytest.raises(UnknownTransaction):
        await second.engine.get(KEY._replace(gid="t-9"))
    await second.engine.close()
