"""Two managers under load, and one of them is killed, paused past its lease, or told to end."""

from __future__ import annotations

import asyncio

import tcc
from tests.stack.books import Run
from tests.stack.installation import LEASE, Stack
from tests.stack.load import Load, planned

Clients = tuple[tcc.Manager, tcc.Manager]


async def same_answers(run: Run, clients: Clients) -> None:
    """S11: whoever asks again, at whichever manager, hears what was told."""
    plans = [(gid, asked) for gid, asked in run.asked.items() if int(gid.partition("-")[2]) % 3 != 1][-10:]
    for gid, asked in plans:
        for client in clients:
            try:
                await client.execute(*planned(asked), gid=gid)
                again = tcc.Decision.CONFIRM
            except tcc.TransactionCancelled:
                again = tcc.Decision.CANCEL
            assert asked.told in (again, None)


async def test_a_manager_is_killed_under_load_and_the_other_goes_on_with_its_work(
    stack: Stack, run: Run, clients: Clients
) -> None:
    load = Load(run, clients, stack.far)
    before = stack.managers[1].said.count("adopted")
    async with run.audited(), load.flowing():
        await load.until_told(40)
        await stack.managers[0].killed()
        await load.until_told(40)
        await stack.managers[0].started()
        await load.until_told(40)
    await run.check(clients[1])
    await same_answers(run, clients)
    assert stack.managers[1].said.count("adopted") > before


async def test_a_manager_that_is_paused_past_its_lease_comes_back_and_cannot_speak_for_the_past(
    stack: Stack, run: Run
) -> None:
    loop = asyncio.get_running_loop()
    async with stack.client(0) as first, stack.client(1) as second:
        load = Load(run, (first, second), stack.far)
        async with run.audited(), load.flowing():
            await load.until_told(40)
            stack.managers[1].pause()
            paused = loop.time()
            while loop.time() < paused + LEASE + 1:
                await load.until_told(5)
            stack.managers[1].resume()
            await load.until_told(40)
        await run.check(second)
        await same_answers(run, (first, second))
    assert "lease_lapsed" in stack.managers[1].said
