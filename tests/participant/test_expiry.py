"""A reservation that expires: however often its Try is repeated, the answer says how long it still holds.

Else a lost first answer would make a manager confirm what is gone.
"""

from __future__ import annotations

from typing import Any

import pytest

from services.accounts.v1 import accounts_pb2 as pb
from tcc import wire
from tcc.fence import MemoryFence, Phase
from tcc.lock import NoLock
from tcc.participant import TryAnswer
from tcc.participant._runtime import ParticipantRuntime
from tests.participant.scripted import PATHS, REPLY, Branch, Scripted, Way, is_marked, make_server


class Clock:
    """Shows what a test sets."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Participant:
    """A runtime on a clock of the test's."""

    def __init__(self, fence: MemoryFence, scripted: Scripted) -> None:
        self.clock = Clock()
        self._runtime = ParticipantRuntime(fence, NoLock(), clock=self.clock)
        served = make_server(scripted).runtime
        self._runtime.add(method for path in PATHS.values() if (method := served.method(path)) is not None)

    async def attempt(self, number: int = 1) -> TryAnswer:
        branch = Branch(deadline=self.clock() + 3600)
        return await self._runtime.attempt(PATHS[Phase.TRY], branch.request, branch.metadata(Phase.TRY, number))

    async def settle(self, phase: Phase) -> None:
        await self._runtime.command(Branch().command(phase, 1))


@pytest.fixture
def participant(fence: MemoryFence, scripted: Scripted) -> Participant:
    return Participant(fence, scripted)


def holding(scripted: Scripted, expires_in: str) -> None:
    """Makes the Try's handler say for how long its reservation holds."""

    async def reserve(request: pb.DebitRequest, context: Any) -> pb.DebitReply:
        context.set_trailing_metadata(((wire.EXPIRES_IN, expires_in), ("shard", "7")))
        return REPLY

    scripted.scripts[Phase.TRY] = reserve


def left(answer: TryAnswer) -> object:
    return dict(answer.trailers).get(wire.EXPIRES_IN)


async def test_by_each_way_a_repeated_try_still_says_that_it_expires(way: Way, scripted: Scripted) -> None:
    holding(scripted, "60000")
    first = await way.attempt(Branch())
    again = await way.attempt(Branch(), attempt=2)

    assert left(first) == "60000"
    assert 0 < int(str(left(again))) <= 60000
    assert again.reply == first.reply


async def test_a_repeated_try_says_what_is_left(participant: Participant, scripted: Scripted) -> None:
    holding(scripted, "1500")
    first = await participant.attempt()
    participant.clock.now += 1.0
    again = await participant.attempt(2)

    assert (left(first), left(again)) == ("1500", "500")


async def test_of_a_reservation_that_is_past_nothing_is_left(participant: Participant, scripted: Scripted) -> None:
    holding(scripted, "1500")
    await participant.attempt()
    participant.clock.now += 60
    assert left(await participant.attempt(2)) == "0"


async def test_one_that_cannot_be_read_is_trusted_for_no_time(participant: Participant, scripted: Scripted) -> None:
    holding(scripted, "soon")
    await participant.attempt()
    assert left(await participant.attempt(2)) == "0"


async def test_one_that_holds_for_ever_says_nothing(participant: Participant, scripted: Scripted) -> None:
    holding(scripted, "9" * 30)
    await participant.attempt()
    assert (await participant.attempt(2)).trailers == ()


async def test_a_reservation_that_does_not_expire_says_nothing(participant: Participant) -> None:
    assert [left(await participant.attempt(number)) for number in (1, 2)] == [None, None]


async def test_once_confirmed_there_is_nothing_to_expire(participant: Participant, scripted: Scripted) -> None:
    holding(scripted, "1500")
    await participant.attempt()
    await participant.settle(Phase.CONFIRM)
    assert left(await participant.attempt(2)) is None


async def test_once_cancelled_a_try_is_refused_and_says_nothing(participant: Participant, scripted: Scripted) -> None:
    holding(scripted, "1500")
    await participant.attempt()
    await participant.settle(Phase.CANCEL)
    late = await participant.attempt(2)
    assert is_marked(late)
    assert left(late) is None
