"""The order of work: lock, fence, answer, release."""

from __future__ import annotations

import inspect
from typing import Any

import grpc
import pytest

import tcc
from tcc import wire
from tcc.fence import MemoryFence, Phase
from tcc.lock import Busy, Held
from tests.participant.scripted import Branch, Direct, Scripted, make_server


class Journal(MemoryFence):
    """A fence and a lock that write down what happens, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.keys: list[tuple[str, float]] = []
        self.held_elsewhere: float | None = None

    async def acquire(self, key: str, ttl: float) -> Held | Busy:
        self.keys.append((key, ttl))
        if self.held_elsewhere is not None:
            return Busy(self.held_elsewhere)
        self.lines.append("lock")
        return self

    async def release(self) -> None:
        self.lines.append("release")

    async def visit(self, visit: Any, body: Any) -> Any:
        self.lines.append("fence")
        return await super().visit(visit, body)


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def way(scripted: Scripted, journal: Journal) -> Direct:
    return Direct(make_server(scripted, journal, lock=journal, handler_timeout=7.0))


async def test_the_lock_is_held_around_the_fence(way: Direct, journal: Journal) -> None:
    await way.attempt(Branch())
    await way.settle(Branch(), Phase.CONFIRM)

    assert journal.lines == ["lock", "fence", "release"] * 2
    assert set(journal.keys) == {("{default/g-1}:0", 12.0)}  # the handler's timeout and 5 s


async def test_a_lock_held_elsewhere_is_busy_with_what_is_left_of_it(
    way: Direct, journal: Journal, scripted: Scripted
) -> None:
    journal.held_elsewhere = 2.5
    answer = await way.attempt(Branch())
    told = await way.settle(Branch(), Phase.CANCEL)

    assert (answer.code, wire.retry_delay(answer.details)) == (grpc.StatusCode.UNAVAILABLE, 2.5)
    assert (told.kind, told.hint) == ("BUSY", 2.5)
    assert not journal.lines
    assert not any(scripted.runs.values())


async def test_by_default_a_killed_instance_s_lock_ends_well_before_a_transaction_s_deadline(
    scripted: Scripted, journal: Journal
) -> None:
    await Direct(make_server(scripted, journal, lock=journal)).attempt(Branch())
    [(_, ttl)] = journal.keys
    assert ttl <= inspect.signature(tcc.Manager.execute).parameters["timeout"].default / 2


@pytest.mark.parametrize("failure", [ValueError("bug"), tcc.Refused("no")])
async def test_the_lock_is_released_however_the_handler_ends(
    way: Direct, journal: Journal, scripted: Scripted, failure: Exception
) -> None:
    async def fail(request: Any, context: Any) -> None:
        raise failure

    scripted.scripts[Phase.TRY] = fail
    await way.attempt(Branch())
    assert journal.lines == ["lock", "fence", "release"]


async def test_without_a_lock_everything_is_held() -> None:
    lock = tcc.NoLock()
    held = await lock.acquire("{default/g-1}:0", 35.0)
    assert not isinstance(held, Busy)
    await held.release()
    await lock.close()
