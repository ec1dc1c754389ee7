"""What every lock does, also the one that is none: it lets work go on, and never raises."""

from __future__ import annotations

import asyncio

from tcc.lock import Busy, Lock


async def test_a_free_lock_is_held_and_given_back(any_lock: Lock, key: str) -> None:
    for _ in range(3):
        held = await any_lock.acquire(key, 35.0)
        assert not isinstance(held, Busy)
        await held.release()
    assert getattr(any_lock, "bypasses", 0) == 0


async def test_releasing_twice_does_nothing_more(any_lock: Lock, key: str) -> None:
    held = await any_lock.acquire(key, 35.0)
    assert not isinstance(held, Busy)
    await held.release()
    await held.release()
    assert not isinstance(await any_lock.acquire(key, 35.0), Busy)


async def test_locks_of_different_branches_do_not_touch(any_lock: Lock, key: str) -> None:
    held = await asyncio.gather(*(any_lock.acquire(f"{key}{number}", 35.0) for number in range(600)))
    assert not any(isinstance(one, Busy) for one in held)
    await asyncio.gather(*(one.release() for one in held if not isinstance(one, Busy)))


async def test_releasing_a_lock_that_ran_out_does_not_raise(any_lock: Lock, key: str) -> None:
    held = await any_lock.acquire(key, 0.001)
    assert not isinstance(held, Busy)
    while isinstance(again := await any_lock.acquire(key, 35.0), Busy):
        pass
    await held.release()
    await again.release()


async def test_closing_twice_is_harmless_and_a_closed_lock_lets_work_go_on(any_lock: Lock, key: str) -> None:
    held = await any_lock.acquire(key, 35.0)
    await any_lock.close()
    await any_lock.close()
    assert not isinstance(held, Busy)
    await held.release()
    assert not isinstance(await any_lock.acquire(key, 35.0), Busy)
