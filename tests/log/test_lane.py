"""The thread of an embedded log: everything given is done in its order, and everybody hears of what became of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import NoReturn

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from tcc_server.log.lane import Lane


class Made:
    """Connections to a database in memory, and those that are open."""

    def __init__(self) -> None:
        self._engine = create_engine("sqlite://", poolclass=NullPool)
        self.connections: list[Connection] = []

    def __call__(self) -> Connection:
        self.connections.append(self._engine.connect())
        return self.connections[-1]


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
async def lane(made: Made) -> AsyncIterator[Lane]:
    lane = Lane("a-lane", made)
    async with asyncio.timeout(10):
        yield lane
        await lane.close()


async def test_work_is_done_in_its_order_on_one_thread_that_is_not_the_loop_s(lane: Lane) -> None:
    done: list[tuple[int, int]] = []
    await asyncio.gather(*(lane.run(lambda at=at: done.append((at, threading.get_ident()))) for at in range(50)))
    assert [at for at, _ in done] == list(range(50))
    threads = {thread for _, thread in done}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), SystemExit(3), StopIteration()])
async def test_what_the_work_raises_is_told_and_the_next_is_done(lane: Lane, error: BaseException) -> None:
    def fails() -> NoReturn:
        raise error

    told = await _caught(lane, fails)
    assert told is error or isinstance(told, RuntimeError)
    assert await lane.run(int, "7") == 7


async def _caught(lane: Lane, fails: object) -> BaseException:
    try:
        await lane.run(fails)  # type: ignore[arg-type]  # it is callable
    except BaseException as raised:
        return raised
    raise AssertionError("nothing was raised")


async def test_a_caller_that_is_cancelled_stops_waiting_and_its_work_goes_on(lane: Lane) -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended: list[str] = []

    def slow() -> None:
        begun.set()
        go_on.wait(5)
        ended.append("slow")

    call = asyncio.create_task(lane.run(slow))
    await asyncio.to_thread(begun.wait, 5)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    assert not ended
    go_on.set()
    await lane.run(ended.append, "next")
    assert ended == ["slow", "next"]


async def test_closing_finishes_what_was_given_drops_the_connection_and_ends_the_thread(made: Made) -> None:
    lane = Lane("b-lane", made)
    done: list[int] = []
    await lane.run(lane.connect)
    calls = [asyncio.create_task(lane.run(done.append, at)) for at in range(3)]
    await asyncio.sleep(0)
    await lane.close()
    await lane.close()
    await asyncio.gather(*calls)
    assert done == [0, 1, 2]
    assert made.connections[0].closed
    with pytest.raises(RuntimeError, match="closed"):
        await lane.run(int)
    ended = [thread for thread in threading.enumerate() if thread.name == "b-lane"]
    for thread in ended:
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()


async def test_after_an_error_there_is_another_connection(lane: Lane, made: Made) -> None:
    first = await lane.run(lane.connect)
    assert await lane.run(lane.connect) is first
    await lane.run(lane.disconnect)
    assert first.closed
    assert await lane.run(lane.connect) is made.connections[1]


def test_a_loop_that_is_closed_meanwhile_leaves_the_thread_at_work(made: Made) -> None:
    lane = Lane("c-lane", made)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go_on.wait(5)

    async def gives_up() -> None:
        call = asyncio.create_task(lane.run(slow))
        await asyncio.to_thread(begun.wait, 5)
        call.cancel()

    asyncio.run(gives_up())
    go_on.set()

    async def works() -> int:
        async with asyncio.timeout(5):
            worked = await lane.run(int, "7")
            await lane.close()
            return worked

    assert asyncio.run(works()) == 7


async def test_a_thread_that_could_not_be_started_is_started_for_the_next_piece_of_work(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_no_room(thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    done: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", has_no_room)
        with pytest.raises(RuntimeError, match="can't start"):
            await lane.run(done.append, "in vain")
    await lane.run(done.append, "later")
    assert done == ["later"]
