"""Many schedules with crashes, losses, doubles and a log that does not say what it did: no promise is broken."""

from __future__ import annotations

import asyncio
import os

import pytest

from tcc_server.core.model import State
from tests.simulation.checker import violations
from tests.simulation.loop import SeededLoop, run
from tests.simulation.world import World, simulate

SEEDS = int(os.environ.get("TCC_SIMULATIONS", "300"))
_SHARE = 10


def world_of(seed: int) -> tuple[World, SeededLoop]:
    async def main() -> World:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SeededLoop)
        return await simulate(loop)

    return run(seed, main())


@pytest.mark.parametrize("share", range(_SHARE))
def test_no_promise_is_broken_in_any_schedule(share: int) -> None:
    for seed in range(share, SEEDS, _SHARE):
        world, _ = world_of(seed)
        assert not violations(world), f"seed {seed}"


def test_the_runs_are_worth_something() -> None:
    kills = unknown = 0
    states: set[State] = set()
    for seed in range(20):
        world, _ = world_of(seed)
        kills += world.kills
        unknown += world.unknown
        states |= {tx.state for tx in world.final().values()}
    assert kills > 20
    assert unknown > 20
    assert states == {State.CONFIRMED, State.CANCELLED}


def test_the_same_seed_gives_the_same_run() -> None:
    (one, first), (two, second) = world_of(7), world_of(7)
    assert (first.steps, one.rows, one.commands) == (second.steps, two.rows, two.commands)


def test_another_seed_gives_another_run() -> None:
    assert world_of(7)[1].steps != world_of(8)[1].steps
