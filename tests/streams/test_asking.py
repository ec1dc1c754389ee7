"""Asking on a stream without waiting: each item's end is told once, in its time, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest

from tcc.streams import ListStream, StreamEnded
from tcc.streams._asking import ACCEPTED
from tests.streams.conftest import Line, answers_of, item

PATIENCE = 10.0


class Told:
    """Whoever asked, and what they heard."""

    def __init__(self) -> None:
        self.answers: dict[int, Any] = {}
        self._news = asyncio.Event()

    def __call__(self, number: int, answer: Any) -> None:
        assert number not in self.answers
        self.answers[number] = answer
        self._news.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.answers) < count:
                self._news.clear()
                await self._news.wait()


async def test_answers_are_told_without_a_future_each(line: Line) -> None:
    told, stream = Told(), line.stream()
    for number in range(3):
        stream.put(number, item(number, b"%d" % number), PATIENCE, partial(told, number))
    assert told.answers == {}
    await told.until(3)
    assert [told.answers[number].reply for number in range(3)] == [b"0", b"1", b"2"]


async def test_each_time_that_is_over_is_told_in_its_order_and_no_other(line: Line) -> None:
    told, stream = Told(), line.stream()
    times = {0: PATIENCE, 1: 0.2, 2: 0.05, 3: 0.1, 4: 0.15}
    line.service.gates = {number: asyncio.Event() for number in times}
    for number, timeout in times.items():
        stream.put(number, item(number), timeout, partial(told, number))
    begun = asyncio.get_running_loop().time()
    await told.until(4)
    assert asyncio.get_running_loop().time() - begun >= 0.19
    assert list(told.answers) == [2, 3, 4, 1]
    assert {type(answer) for answer in told.answers.values()} == {TimeoutError}
    line.service.gates[0].set()
    await told.until(5)
    assert told.answers[0].id == 0


async def test_a_time_that_is_over_before_the_item_could_leave_keeps_it_here(line: Line) -> None:
    told, stream = Told(), line.stream()
    stream.put(1, item(1), -1.0, partial(told, 1))
    await told.until(1)
    assert isinstance(told.answers[1], TimeoutError)
    assert (await stream.ask(2, item(2, b"x"), PATIENCE)).reply == b"x"
    assert 1 not in line.service.arrived


async def test_one_that_is_given_up_hears_nothing_and_leaves_only_if_it_was_gone_already(line: Line) -> None:
    told, stream = Told(), line.stream()
    stream.put(1, item(1), PATIENCE, partial(told, 1)).cancel()
    line.service.gates[2] = asyncio.Event()
    gone = stream.put(2, item(2), PATIENCE, partial(told, 2))
    await line.service.until(lambda: 2 in line.service.arrived)
    gone.cancel()
    line.service.gates[2].set()
    assert (await stream.ask(3, item(3), PATIENCE)).id == 3
    assert line.service.arrived == [2, 3]
    assert told.answers == {}


async def test_who_cannot_take_its_answer_keeps_nobody_else_from_theirs(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    told, stream = Told(), line.stream()

    def bug(answer: Any) -> None:
        raise KeyError("a bug")

    line.service.gates[0] = asyncio.Event()
    with caplog.at_level(logging.ERROR, "tcc.streams"):
        for number in range(3):
            stream.put(number, item(number), PATIENCE, partial(told, number) if number else bug)
        line.service.gates[0].set()
        await told.until(2)
        assert (await stream.ask(3, item(3), PATIENCE)).id == 3
    assert "a bug" in caplog.text
    assert line.service.streams == 1


class Call:
    """A stream whose end the test decides."""

    def __init__(self) -> None:
        self.wrote = asyncio.Event()
        self.ended = asyncio.Event()

    async def initial_metadata(self) -> Any:
        return ((ACCEPTED, "1"),)

    async def write(self, message: bytes) -> None:
        self.wrote.set()

    async def read(self) -> Any:
        await self.ended.wait()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")

    def cancel(self) -> None:
        self.ended.set()


async def test_what_is_put_by_who_hears_of_a_stream_s_end_goes_out_on_one_other() -> None:
    told, calls = Told(), (Call(), Call(), Call())
    left = list(calls)

    def begin() -> Any:
        return left.pop(0)

    stream: ListStream[int, Any] = ListStream(begin, answers_of)

    def once_more(answer: Any) -> None:
        told(1, answer)
        stream.put(2, item(2), PATIENCE, partial(told, 2))

    stream.put(1, item(1), PATIENCE, once_more)
    async with asyncio.timeout(PATIENCE):
        await calls[0].wrote.wait()
        calls[0].ended.set()
        await calls[1].wrote.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(left) == 1
    await stream.close()
    assert {type(answer) for answer in told.answers.values()} == {StreamEnded}
    assert len(told.answers) == 2


async def test_a_closed_stream_says_so_later_and_not_from_within(line: Line) -> None:
    told, stream = Told(), line.stream()
    await stream.close()
    stream.put(1, item(1), PATIENCE, partial(told, 1))
    assert told.answers == {}
    await told.until(1)
    assert isinstance(told.answers[1], StreamEnded)


async def test_one_that_is_asked_again_under_its_key_is_unknown_and_not_forgotten(line: Line) -> None:
    told, stream = Told(), line.stream()
    line.service.gates[1] = asyncio.Event()
    stream.put(1, item(1), PATIENCE, partial(told, 1))
    await line.service.until(lambda: 1 in line.service.arrived)
    stream.put(1, item(1, b"again"), PATIENCE, partial(told, 2))
    await told.until(1)
    assert isinstance(told.answers[1], StreamEnded)
    line.service.gates[1].set()
    await told.until(2)
    assert told.answers[2].id == 1


async def test_one_that_is_given_up_keeps_no_bytes(line: Line) -> None:
    told, stream = Told(), line.stream()
    line.service.gates[1] = asyncio.Event()
    gone = stream.put(1, item(1, bytes(1000)), PATIENCE, partial(told, 1))
    await line.service.until(lambda: 1 in line.service.arrived)
    gone.cancel()
    assert not gone.item
