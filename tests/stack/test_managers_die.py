"""Two managers under load, and one of them is killed, paused past its lease, or told to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import tcc
from tests.servers.process import free_port
from tests.spine.processes import Child, Nursery
from tests.spine.test_kills import MOMENTS
from tests.stack.books import Asked, Run
from tests.stack.installation import LEASE, Stack
from tests.stack.load import LAST, Load, is_plan, planned, reserve

Clients = tuple[tcc.Manager, tcc.Manager]

WITHIN = 10.0
"""Seconds in which a process that was told to end has ended."""


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path) as nursery:
        yield nursery


async def same_answers(run: Run, clients: Clients) -> None:
    """S11: whoever asks again, at whichever manager, hears what was told."""
    plans = [(gid, asked) for gid, asked in run.asked.items() if is_plan(int(gid.partition("-")[2]))][-10:]
    for gid, asked in plans:
        for client in clients:
            try:
                await client.execute(*planned(asked), gid=gid)
                again = tcc.Decision.CONFIRM
            except tcc.TransactionCancelled:
                again = tcc.Decision.CANCEL
            assert asked.told in (again, None)


async def reserved_by_nobody(stack: Stack, run: Run) -> str:
    """A transaction that only its manager knows of: its client reserves, and vanishes."""
    gid = f"{run.name}-{LAST}"
    asked = run.asked[gid] = Asked(*stack.far, run.accounts[0], 1, tcc.Decision.CANCEL)
    async with stack.client(0) as vanished:
        tx = vanished.transaction(gid=gid, timeout=3)
        await tx.__aenter__()
        await reserve(tx, asked)
    return gid


async def test_a_manager_is_killed_under_load_and_the_other_goes_on_with_its_work(
    stack: Stack, run: Run, clients: Clients
) -> None:
    load = Load(run, clients, stack.far)
    before = stack.managers[1].said.count("adopted")
    async with run.audited():
        async with load.flowing():
            await load.until_told(20)
            orphan = await reserved_by_nobody(stack, run)
            await stack.managers[0].killed()
            await load.until_told(30)
            await stack.managers[0].started()
            await load.until_told(20)
        found = await run.check(clients[1])
    assert found[orphan].cancel_reason is tcc.CancelReason.DEADLINE
    await same_answers(run, clients)
    assert stack.managers[1].said.count("adopted") > before


async def test_a_manager_that_is_paused_past_its_lease_comes_back_and_cannot_speak_for_the_past(
    stack: Stack, run: Run
) -> None:
    loop = asyncio.get_running_loop()
    async with stack.client(0) as first, stack.client(1) as second:
        load = Load(run, (first, second), stack.far)
        async with run.audited(), load.flowing():
            await load.until_told(30)
            stack.managers[1].pause()
            paused = loop.time()
            while loop.time() < paused + LEASE + 1:
                await load.until_told(5)
            stack.managers[1].resume()
            await load.until_told(30)
        await run.check(second)
        await same_answers(run, (first, second))
    assert "lease_lapsed" in stack.managers[1].said


async def test_a_manager_that_is_told_to_end_under_load_ends_well_and_leaves_nothing_half_told(
    stack: Stack, run: Run, clients: Clients
) -> None:
    load = Load(run, clients, stack.far)
    async with run.audited():
        async with load.flowing():
            await load.until_told(30)
            assert await stack.managers[0].ended(WITHIN) == 0
            await load.until_told(30)
            await stack.managers[0].started()
        await run.check(clients[1])
    await same_answers(run, clients)
    assert load.unknown == 0  # each client asked the other manager by itself


async def test_a_transfer_outlives_sigkill_of_its_manager_at_every_moment_though_it_never_comes_back(
    stack: Stack, run: Run, nursery: Nursery, tmp_path: Path
) -> None:
    """One manager a moment, all at once; whatever they leave, the two that live go on with."""

    async def doomed_at(moment: str) -> Child:
        file = tmp_path / f"{moment.replace(':', '-')}.toml"
        file.write_text(stack.configuration(free_port(), stack.log))
        return await nursery.manager_of(file, moment)

    async def transfer(moment: str, doomed: Child) -> None:
        gid = f"{run.name}-{moment.replace(':', '-')}"
        asked = run.asked[gid] = Asked(*stack.far, run.accounts[0], 1)
        async with stack.client_of(f"127.0.0.1:{doomed.port}", stack.managers[0].address) as client:
            done = await client.execute(*planned(asked), gid=gid, wait=tcc.COMPLETED)
            asked.told = tcc.Decision.CONFIRM
            assert done.state is tcc.State.CONFIRMED, moment  # nothing stood in its way but a crash
        await doomed.gone()

    doomed = [(moment, await doomed_at(moment)) for moment in MOMENTS.values()]
    async with run.audited(), asyncio.TaskGroup() as group:
        for moment, child in doomed:
            group.create_task(transfer(moment, child))
    async with stack.client(1) as client:
        await run.check(client)
