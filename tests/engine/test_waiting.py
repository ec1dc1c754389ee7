"""Who waits, for what, and how long; participants that come back; and the bounds of a transaction."""

from __future__ import annotations

import asyncio

import pytest

from tcc.v1 import transaction_pb2
from tcc_server.caller.seam import TryReply
from tcc_server.core.model import Decision, Reservation, Settlement, State, Status
from tcc_server.engine.errors import (
    AlreadyDecided,
    Draining,
    GidInUse,
    NotInteractive,
    StepInUse,
    TooMuch,
    UnknownTransaction,
)
from tests.engine.shell import KEY, REFUSED, RESERVED, Shell, ask, decided, scenario
from tests.faults import Fault

NOW = ("", "")


@scenario
async def test_a_cancelled_call_stops_waiting_and_nothing_more() -> None:
    shell = await Shell().start()
    call = shell.execute(ask("a"))
    other = shell.execute(ask("a"))
    await shell.until(lambda: bool(shell.participants.calls))
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    shell.participants.answer("a")
    assert await decided(other) is State.CONFIRMING
    assert shell.courier.steps == ["a"]
    assert not shell.participants.cancelled
    await shell.engine.close()


@scenario
async def test_a_call_cancelled_before_its_begin_is_durable_leaves_a_transaction_that_ends() -> None:
    shell = await Shell().start()
    shell.participants.always = RESERVED
    shell.courier.answers = True
    shell.log.plan(Fault.HELD)
    call = shell.execute(ask("a"))
    await shell.log.until_held()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    shell.log.release()
    await shell.until(lambda: KEY in shell.store.rows and shell.stored.state is State.CONFIRMED)
    await shell.engine.close()


@scenario
async def test_callers_of_one_gid_wait_for_one_transaction() -> None:
    shell = await Shell().start()
    shell.log.plan(Fault.HELD)
    calls = [shell.execute(ask("a")) for _ in range(5)]
    await shell.log.until_held()
    other = shell.execute(ask("a", request=b"other"))
    await shell.quiet()
    shell.log.release()
    with pytest.raises(GidInUse, match="another request"):
        await other
    await shell.until(lambda: bool(shell.participants.calls))
    shell.participants.answer("a")
    assert {await decided(call) for call in calls} == {State.CONFIRMING}
    assert len(shell.participants.calls) == 1
    await shell.engine.close()


@scenario
async def test_a_confirm_waits_for_tries_in_flight_and_meanwhile_nobody_joins() -> None:
    shell = await Shell().start()
    await shell.engine.begin(KEY, "", 30, NOW)
    trying = asyncio.create_task(shell.engine.enlist(KEY, ask("a")))
    await shell.until(lambda: bool(shell.participants.calls))
    confirming = asyncio.create_task(shell.engine.confirm(KEY))
    await shell.quiet()
    with pytest.raises(AlreadyDecided, match="is being confirmed"):
        await shell.engine.enlist(KEY, ask("b"))
    assert not confirming.done()
    shell.participants.answer("a")
    assert (await trying)[0].branches[0].reservation is Reservation.RESERVED
    assert await decided(confirming) is State.CONFIRMING
    assert shell.participants.steps == ["a"]
    await shell.engine.close()


@scenario
async def test_a_branch_that_comes_while_the_decision_is_written_is_turned_away_and_never_tried() -> None:
    shell = await Shell().start()
    await shell.engine.begin(KEY, "", 30, NOW)
    shell.log.plan(Fault.HELD)
    confirming = asyncio.create_task(shell.engine.confirm(KEY))
    await shell.log.until_held()
    joining = asyncio.create_task(shell.engine.enlist(KEY, ask("late")))
    await shell.quiet()
    shell.log.release()
    assert (await confirming).decision is Decision.CONFIRM
    with pytest.raises(AlreadyDecided, match="no branch can join"):
        await joining
    assert not shell.participants.calls
    assert not shell.stored.branches
    await shell.engine.close()


@scenario
async def test_a_confirm_while_tries_hang_is_cancelled_at_the_deadline() -> None:
    shell = await Shell().start()
    await shell.engine.begin(KEY, "", 5, NOW)
    trying = asyncio.create_task(shell.engine.enlist(KEY, ask("a")))
    await shell.until(lambda: bool(shell.participants.calls))
    tx = await shell.engine.confirm(KEY)
    assert (tx.decision, tx.cancel_reason.name) == (Decision.CANCEL, "DEADLINE")
    assert (await trying)[0].decision is Decision.CANCEL
    await shell.quiet()
    assert shell.participants.cancelled == ["a"]
    assert shell.courier.steps == ["a"]  # it may be reserved
    assert asyncio.get_running_loop().time() == pytest.approx(5, abs=0.1)
    await shell.engine.close()


@scenario
async def test_a_watch_gives_each_durable_version_at_most_once_and_ends_with_the_final_one() -> None:
    shell = await Shell().start()
    call = shell.execute(ask("a"), ask("b"))
    await shell.until(lambda: len(shell.participants.calls) == 2)
    seen: list[tuple[int, State]] = []

    async def watch(after: int) -> None:
        seen.extend([(tx.version, tx.state) async for tx in shell.engine.watch(KEY, after)])

    watching = asyncio.create_task(watch(0))
    await shell.quiet()
    shell.participants.answer("a")
    shell.participants.answer("b")
    await call
    for command in list(shell.courier.sent):
        shell.courier.outcome(command)
    await watching
    assert [version for version, _ in seen] == sorted({version for version, _ in seen})
    assert seen[0][1] is State.TRYING
    assert seen[-1][1] is State.CONFIRMED
    seen.clear()
    await watch(2)  # resumed where a stream broke, after the end
    assert [state for _, state in seen] == [State.CONFIRMED]
    seen.clear()
    await watch(3)
    assert seen == []
    with pytest.raises(UnknownTransaction):
        await anext(shell.engine.watch(KEY._replace(gid="nobody"), 0))
    await shell.engine.close()


@scenario
async def test_a_silent_participant_that_is_seen_again_gets_its_commands_within_a_second() -> None:
    shell = await Shell().start()
    shell.participants.always = RESERVED
    others = [KEY._replace(gid=f"t-{number}") for number in range(20)]
    for key in others:
        await shell.execute(ask("a", "sick"), ask("b", "well"), key=key)
    for command in list(shell.courier.sent):
        if command.participant == "well":
            shell.courier.outcome(command)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(45)  # waits of 10 and 20 s are over, one of 40 s runs
    shell.courier.sent.clear()
    shell.engine.seen("sick")
    back = loop.time()
    await shell.until_time(back + 1.0)
    assert {command.gid for command in shell.courier.sent} == {key.gid for key in others}
    assert {command.participant for command in shell.courier.sent} == {"sick"}
    assert len(shell.courier.sent) == len(others)
    await shell.engine.close()


@scenario
async def test_one_outcome_of_a_silent_participant_counts_as_its_return() -> None:
    shell = await Shell().start()
    shell.participants.always = RESERVED
    first, second = (KEY._replace(gid=gid) for gid in ("t-1", "t-2"))
    await shell.execute(ask("a"), key=first)
    await shell.execute(ask("a"), key=second)
    await asyncio.sleep(45)
    shell.courier.sent.clear()
    late = await shell.engine.get(first)
    assert late.branches[0].settlement is Settlement.OPEN
    shell.courier.outcome(shell.commands_of("t-1")[0])
    await shell.until_time(asyncio.get_running_loop().time() + 1.0)
    assert [command.gid for command in shell.courier.sent] == ["t-2"]
    await shell.engine.close()


@scenario
async def test_an_outcome_of_the_other_phase_or_of_nobody_changes_nothing() -> None:
    shell = await Shell().start()
    call = shell.execute(ask("a"), ask("b"))
    await shell.until(lambda: len(shell.participants.calls) == 2)
    shell.participants.answer("a", REFUSED)
    assert await decided(call) is State.CANCELLING
    (command,) = shell.courier.sent
    stranger = type(command)()
    stranger.CopyFrom(command)
    stranger.phase = transaction_pb2.PHASE_CONFIRM
    shell.courier.outcome(stranger)
    stranger.CopyFrom(command)
    stranger.branch = "z"
    shell.courier.outcome(stranger)
    stranger.CopyFrom(command)
    stranger.gid = "nobody"
    shell.courier.outcome(stranger)
    await shell.quiet()
    assert (await shell.engine.get(KEY)).state is State.CANCELLING
    shell.courier.outcome(command)
    shell.courier.outcome(command)
    await shell.until(lambda: shell.stored.state is State.CANCELLED)
    await shell.engine.close()


@scenario
async def test_commands_of_one_decision_leave_in_one_list() -> None:
    shell = await Shell().start()
    shell.participants.always = RESERVED
    await shell.execute(*(ask(str(number)) for number in range(64)))
    assert shell.courier.lists == [64]
    await shell.engine.close()


# Bounds.


@scenario
async def test_one_branch_more_than_the_limit_is_refused_and_the_others_are_unharmed() -> None:
    shell = await Shell(branches=3).start()
    shell.participants.always = RESERVED
    await shell.engine.begin(KEY, "", 30, NOW)
    tried = await asyncio.gather(
        *(shell.engine.enlist(KEY, ask(str(number))) for number in range(5)), return_exceptions=True
    )
    assert [isinstance(answer, TooMuch) for answer in tried].count(True) == 2
    assert len((await shell.engine.confirm(KEY)).branches) == 3
    await shell.engine.close()


@scenario
async def test_requests_over_the_limit_together_are_refused_before_the_try() -> None:
    shell = await Shell(payload=100).start()
    shell.participants.always = TryReply(Status(), b"r" * 10)
    await shell.engine.begin(KEY, "", 30, NOW)
    await shell.engine.enlist(KEY, ask("a", request=b"q" * 50))
    with pytest.raises(TooMuch, match="would hold 101 bytes of requests and replies, the limit is 100"):
        await shell.engine.enlist(KEY, ask("b", request=b"q" * 41))
    await shell.engine.enlist(KEY, ask("b", request=b"q" * 40))
    assert shell.participants.steps == ["a", "b"]
    await shell.engine.close()


@scenario
async def test_a_reply_over_the_limit_refuses_the_branch_and_its_reservation_is_given_back() -> None:
    for marked in (False, True):  # a mark on a reply means nothing
        shell = await Shell(payload=100).start()
        call = shell.execute(ask("a"), ask("b"))
        await shell.until(lambda shell=shell: len(shell.participants.calls) == 2)  # type: ignore[misc]  # bound now
        shell.participants.answer("a")
        shell.participants.answer("b", TryReply(Status(), b"r" * 90, marked=marked))
        assert await decided(call) is State.CANCELLING
        assert sorted(shell.courier.steps) == ["a", "b"]
        assert "more than the transaction's limit leaves" in shell.stored.decided_text
        await shell.engine.close()


@scenario
async def test_replies_that_come_while_something_is_written_count_together() -> None:
    shell = await Shell(payload=100).start()
    await shell.engine.begin(KEY, "", 30, NOW)
    tries = [asyncio.create_task(shell.engine.enlist(KEY, ask(step, request=b"q"))) for step in ("a", "b")]
    await shell.until(lambda: len(shell.participants.calls) == 2)
    shell.log.plan(Fault.HELD)
    third = asyncio.create_task(shell.engine.enlist(KEY, ask("c", request=b"q")))
    await shell.log.until_held()
    shell.participants.answer("a", TryReply(Status(), b"r" * 60))
    shell.participants.answer("b", TryReply(Status(), b"r" * 60))
    await shell.quiet()
    shell.log.release()
    told = [(await call)[0].branches for call in tries]
    results = {branches[n].reservation for n, branches in enumerate(told)}
    assert results == {Reservation.RESERVED, Reservation.DECLINED}
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    await shell.engine.close()


# What does not fit.


@scenario
async def test_a_plan_takes_no_try_and_an_undecided_one_no_confirm() -> None:
    shell = await Shell().start()
    call = shell.execute(ask("a"))
    await shell.until(lambda: bool(shell.participants.calls))
    with pytest.raises(NotInteractive):
        await shell.engine.enlist(KEY, ask("b"))
    with pytest.raises(NotInteractive):
        await shell.engine.confirm(KEY)
    shell.participants.answer("a")
    await call
    await shell.engine.close()


@scenario
async def test_a_step_with_other_content_is_refused_also_while_the_first_is_being_written() -> None:
    shell = await Shell().start()
    await shell.engine.begin(KEY, "", 30, NOW)
    shell.log.plan(Fault.HELD)
    first = asyncio.create_task(shell.engine.enlist(KEY, ask("a")))
    await shell.log.until_held()
    with pytest.raises(StepInUse, match="another request"):
        await shell.engine.enlist(KEY, ask("a", request=b"other"))
    again = asyncio.create_task(shell.engine.enlist(KEY, ask("a")))
    await shell.quiet()
    shell.log.release()
    await shell.until(lambda: bool(shell.participants.calls))
    shell.participants.answer("a")
    assert (await first)[0].branches == (await again)[0].branches
    assert shell.participants.steps == ["a"]
    await shell.engine.close()


@scenario
async def test_a_draining_engine_begins_nothing_and_answers_what_it_knows() -> None:
    shell = await Shell().start()
    shell.participants.always = RESERVED
    await shell.execute(ask("a"))
    shell.engine.drain()
    assert await decided(shell.execute(ask("a"))) is State.CONFIRMING
    with pytest.raises(Draining):
        await shell.execute(ask("a"), key=KEY._replace(gid="new"))
    assert len(shell.store.rows) == 1
    await shell.engine.close()


@scenario
async def test_closing_sends_everybody_away_and_leaves_the_rest_to_the_next() -> None:
    shell = await Shell().start()
    call = shell.execute(ask("a"))
    await shell.until(lambda: bool(shell.participants.calls))
    await shell.engine.close()
    with pytest.raises(Draining):
        await call
    assert shell.stored.state is State.TRYING
