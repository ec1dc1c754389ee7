"""Under strain: a slow participant, a sick log, too many transactions, a caller that breaks its law."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tcc.v1.participant_pb2 import Command
from tcc_server.caller.seam import TryCall, TryReply
from tcc_server.core.decide import decide
from tcc_server.core.messages import Answer
from tcc_server.core.model import CancelReason, Key, State, Transaction
from tcc_server.engine import worker
from tcc_server.engine.errors import Overloaded
from tests.engine.shell import KEY, RESERVED, Shell, ask, scenario
from tests.faults import Fault


def key(number: int) -> Key:
    """Another transaction's key."""
    return Key("default", f"t-{number}")


@scenario
async def test_a_slow_participant_that_answers_all_the_time_gets_no_command_before_it_is_due() -> None:
    shell = await Shell().start()
    shell.participants.always = RESERVED
    count = 40
    await asyncio.gather(*(shell.execute(ask("a"), key=key(number)) for number in range(count)))
    first = list(shell.courier.sent)
    # One answer a second: the last is 40 s late, and each command is due again at 10 and at 30 s at the earliest.
    for second, command in enumerate(first, 1):
        await shell.until_time(second)
        shell.courier.outcome(command)
    by_the_clock = sum(1 + (second >= 10) + (second >= 30) for second in range(1, count + 1))
    assert len(shell.courier.all) <= by_the_clock
    await shell.engine.close()


@scenario
async def test_a_participant_that_was_silent_gets_what_it_owes_within_a_second_of_its_first_word() -> None:
    shell = await Shell().start()
    shell.participants.always = RESERVED
    await asyncio.gather(*(shell.execute(ask("a"), key=key(number)) for number in range(5)))
    await shell.until_time(31)  # sent at 0, 10 and 30, and due again at 70
    sent = len(shell.courier.all)
    shell.courier.outcome(shell.courier.sent[0])
    await shell.until_time(32.1)
    assert len(shell.courier.all) == sent + 4
    await shell.engine.close()


@scenario
async def test_a_begin_that_becomes_durable_after_its_deadline_sends_no_try() -> None:
    shell = await Shell().start()
    shell.participants.always = RESERVED
    shell.courier.answers = True
    shell.log.plan(Fault.HELD)
    call = shell.execute(ask("a"), timeout=5.0)
    await shell.log.until_held()
    await shell.until_time(6)
    shell.log.release()
    assert (await call).cancel_reason is CancelReason.DEADLINE
    assert shell.participants.calls == []
    await shell.engine.close()


@scenario
async def test_nothing_is_begun_beyond_the_bound_and_what_was_begun_still_answers() -> None:
    shell = await Shell(open_transactions=2).start()
    calls = [shell.execute(ask("a"), key=key(number)) for number in range(2)]
    await shell.until(lambda: len(shell.participants.calls) == 2)
    with pytest.raises(Overloaded):
        await shell.execute(ask("a"), key=key(3))
    assert key(3) not in shell.store.rows
    again = shell.execute(ask("a"), key=key(0))
    await shell.quiet()
    shell.courier.answers = True
    shell.participants.always = RESERVED
    shell.participants.answer_all()
    assert (await again).key == key(0)
    await asyncio.gather(*calls)
    await shell.quiet()
    assert (await shell.execute(ask("a"), key=key(3))).key == key(3)
    await shell.engine.close()


@scenario
async def test_a_caller_that_raises_makes_a_try_unknown_and_it_is_tried_again() -> None:
    shell = await Shell().start()
    shell.courier.answers = True
    call = shell.participants.call
    failures = [OverflowError("a trailer of 400 digits")]

    async def broken(attempt: TryCall) -> TryReply:
        if failures:
            raise failures.pop()
        return RESERVED

    shell.participants.call = broken  # type: ignore[method-assign, assignment]  # what breaks its law
    assert (await shell.execute(ask("a"))).branches[0].try_attempts == 2
    shell.participants.call = call  # type: ignore[method-assign]  # as it was
    assert KEY in shell.store.rows
    await shell.engine.close()


@scenario
async def test_what_fails_at_one_transaction_holds_up_no_other_and_is_begun_again() -> None:
    for failing in (1, 2):  # the first command, behind a write; and its repeat, which needs none
        shell = await Shell().start()
        shell.participants.always = RESERVED
        send, sends = shell.courier.send, 0

        def broken(commands: Sequence[Command], failing: int = failing) -> None:
            nonlocal sends
            if commands[0].gid == "t-0":
                sends += 1
                if sends == failing:
                    raise ValueError("a bug")
            send(commands)  # noqa: B023  of this turn of the loop

        shell.courier.send = broken  # type: ignore[method-assign]  # what breaks its law
        calls = [shell.execute(ask("a"), key=key(number)) for number in range(3)]
        await asyncio.gather(*calls, return_exceptions=True)
        await shell.until_time(asyncio.get_running_loop().time() + 16)
        sent = {number: len(shell.commands_of(f"t-{number}")) for number in range(3)}
        assert sent[1] == sent[2] == 2
        assert sent[0] >= 1
        shell.courier.answers = True
        for number in range(3):
            shell.courier.outcome(shell.commands_of(f"t-{number}")[-1])
        await shell.quiet()
        assert shell.engine.open_transactions == 0
        await shell.engine.close()


@scenario
async def test_what_fails_and_cannot_even_be_said_is_begun_again_and_holds_up_no_other() -> None:
    shell = await Shell().start()
    shell.participants.always = RESERVED
    shell.courier.answers = True
    send = shell.courier.send
    broken = {"t-0", "t-1"}  # one behind a write, and one more in the same turn

    def fails_once(commands: Sequence[Command]) -> None:
        if commands[0].gid in broken:
            broken.remove(commands[0].gid)
            raise ValueError("a bug")
        send(commands)

    shell.courier.send = fails_once  # type: ignore[method-assign]  # what breaks its law
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "_log", _Mute())
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # it is told of that there
        calls = [shell.execute(ask("a"), key=key(number)) for number in range(4)]
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*calls, return_exceptions=True)
        assert asyncio.get_running_loop().time() - begun < 1  # nobody was left waiting for a deadline
        await shell.until_time(asyncio.get_running_loop().time() + 16)
    assert not broken
    assert shell.engine.open_transactions == 0
    assert {row.state for row in shell.store.rows.values()} == {State.CONFIRMED}
    await shell.engine.close()


@scenario
async def test_a_bug_in_the_core_that_cannot_be_said_leaves_the_others_of_its_turn_answered() -> None:
    shell = await Shell().start()
    shell.courier.answers = True

    broken = {key(0)}

    def fails_once(tx: Transaction, *rest: Any) -> Answer:
        if tx.key in broken:
            broken.remove(tx.key)
            raise ValueError("a bug")
        return decide(tx, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "decide", fails_once)
        patch.setattr(worker, "_log", _Mute())
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        calls = [shell.execute(ask("a"), key=key(number)) for number in range(3)]
        await shell.until(lambda: len(shell.participants.calls) == 3)
        shell.participants.answer_all()
        shell.participants.always = RESERVED
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(answer, Transaction) for answer in answers) == 2
        await shell.until_time(asyncio.get_running_loop().time() + 10)
    assert {row.state for row in shell.store.rows.values()} == {State.CONFIRMED}
    await shell.engine.close()


class _Mute:
    """A logger whose pipe nobody reads any more."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def broken_pipe(*_: object, **__: object) -> None:
            raise BrokenPipeError(name)

        return broken_pipe
