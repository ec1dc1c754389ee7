"""SIGKILL while a list is made: all of it is there afterwards, or nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tcc.fence import Rule
from tests.fence.killed import AFTER_THE_COMMIT, GIDS, MOMENTS
from tests.fence.lists import amounts, effects, of, prepare
from tests.fence.sharing import SharingFence
from tests.fence.visits import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def fence(url: str) -> AsyncIterator[SharingFence]:
    fence = await prepare(SharingFence(url))
    yield fence
    await fence.close()


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_process_killed_in_the_middle_of_a_list_leaves_no_half_of_it(
    fence: SharingFence, url: str, moment: str
) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.fence.killed", url, moment, cwd=ROOT)
    async with asyncio.timeout(60):
        assert await child.wait() == -signal.SIGKILL

    committed = moment == AFTER_THE_COMMIT
    repeated = [(await run(fence, of(gid))).rule for gid in GIDS]
    assert repeated == [Rule.REPLY if committed else Rule.RUN] * len(GIDS)
    assert await effects(fence) == (sorted(GIDS) if committed else [])
    assert await amounts(fence) == ({"a": 95, "b": 105} if committed else {"a": 100, "b": 100})
