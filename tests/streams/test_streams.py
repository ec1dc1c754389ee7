"""Lists on a stream: what arrives while a list is written leaves with the next, and each item has its own answer."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from hypothesis import given, strategies as st

from tcc.streams import NotOffered, StreamEnded, _asking, listed
from tcc.v1 import participant_pb2 as pb
from tests.streams.conftest import Item, Line, Service, item, start

PATIENCE = 10.0


@given(st.lists(st.binary(max_size=70_000), max_size=6))
def test_items_that_are_serialised_already_make_the_message_that_holds_them(requests: list[bytes]) -> None:
    items = [Item(id=number, request=request) for number, request in enumerate(requests)]
    message = pb.TryStreamRequest.FromString(listed(each.SerializeToString() for each in items))
    assert list(message.items) == items


async def test_an_item_that_comes_alone_leaves_alone_and_at_once(line: Line) -> None:
    stream = line.stream()
    assert (await stream.ask(1, item(1, b"a"), PATIENCE)).reply == b"a"
    assert (await stream.ask(2, item(2, b"b"), PATIENCE)).reply == b"b"
    assert line.service.sizes == [1, 1]
    assert line.service.streams == 1


async def test_what_comes_together_leaves_together_and_in_order(line: Line) -> None:
    stream = line.stream()
    answers = await asyncio.gather(*(stream.ask(n, item(n, b"%d" % n), PATIENCE) for n in range(400)))
    assert [answer.reply for answer in answers] == [b"%d" % n for n in range(400)]
    assert line.service.arrived == list(range(400))
    assert len(line.service.sizes) < 40
    assert (stream.items, stream.lists) == (400, len(line.service.sizes))


async def test_lists_are_bounded_in_items_and_in_bytes_and_a_large_item_goes_alone(line: Line) -> None:
    few = line.stream(max_items=7)
    await asyncio.gather(*(few.ask(n, item(n), PATIENCE) for n in range(50)))
    assert max(line.service.sizes) <= 7
    line.service.sizes.clear()
    small = line.stream(max_bytes=1000)
    sizes = [10] * 20 + [5000] + [400] * 9
    await asyncio.gather(*(small.ask(n, item(n, b"x" * size), PATIENCE) for n, size in enumerate(sizes)))
    assert sum(line.service.sizes) == len(sizes)
    assert max(line.service.sizes[1:]) < 30
    assert 1 in line.service.sizes


async def test_answers_come_when_they_are_ready_in_any_order(line: Line) -> None:
    line.service.gates[1] = asyncio.Event()
    stream = line.stream()
    held = asyncio.create_task(stream.ask(1, item(1), PATIENCE))
    assert (await stream.ask(2, item(2), PATIENCE)).id == 2
    assert not held.done()
    line.service.gates[1].set()
    assert (await held).id == 1


async def test_one_that_fails_or_takes_too_long_harms_no_other(line: Line) -> None:
    line.service.gates[1] = asyncio.Event()
    stream = line.stream()
    slow = asyncio.create_task(stream.ask(1, item(1), 0.05))
    bug, fine = await asyncio.gather(stream.ask(2, item(2, b"bug"), PATIENCE), stream.ask(3, item(3, b"x"), PATIENCE))
    with pytest.raises(TimeoutError):
        await slow
    assert bug.status.code == grpc.StatusCode.INTERNAL.value[0]
    assert fine.reply == b"x"
    line.service.gates[1].set()
    assert (await stream.ask(4, item(4, b"y"), PATIENCE)).reply == b"y"  # the late answer to 1 was nobody's


async def test_a_cancelled_ask_drops_an_item_that_has_not_left(line: Line) -> None:
    stream = line.stream()
    asks = [asyncio.create_task(stream.ask(n, item(n), PATIENCE)) for n in range(3)]
    await asyncio.sleep(0)  # they wait now; the stream is not open yet
    asks[1].cancel()
    await asyncio.gather(*asks, return_exceptions=True)
    assert line.service.arrived == [0, 2]


async def test_a_stream_that_breaks_leaves_its_items_unknown_and_the_next_one_opens_it_again(line: Line) -> None:
    line.service.gates[1] = asyncio.Event()
    stream = line.stream()
    held = asyncio.create_task(stream.ask(1, item(1), PATIENCE))
    await line.service.until(lambda: 1 in line.service.arrived)
    await line.server.stop(None)
    with pytest.raises(StreamEnded):
        await held
    await line.service.until(lambda: line.service.cancelled == [1])  # as gRPC cancels the handler of a broken call
    service = Service()
    line.server, _ = await start(service, line.port)
    await line.channel.channel_ready()
    assert (await stream.ask(2, item(2, b"again"), PATIENCE)).reply == b"again"


async def test_nobody_there_is_said_at_once_and_to_all(line: Line) -> None:
    await line.server.stop(None)
    stream = line.stream()
    ends = await asyncio.gather(*(stream.ask(n, item(n), PATIENCE) for n in range(20)), return_exceptions=True)
    assert {type(end) for end in ends} == {StreamEnded}
    assert {end.code for end in ends if isinstance(end, StreamEnded)} == {grpc.StatusCode.UNAVAILABLE}


async def test_a_server_without_the_stream_is_not_asked_again_for_a_while(line: Line) -> None:
    line.service.offered = False
    stream = line.stream()
    ends = await asyncio.gather(*(stream.ask(n, item(n), PATIENCE) for n in range(3)), return_exceptions=True)
    assert {type(end) for end in ends} == {NotOffered}
    assert not stream.offered
    assert line.service.arrived == []


async def test_the_first_list_waits_for_the_server_s_word_so_that_no_write_hides_a_refusal(line: Line) -> None:
    line.service.offered = False
    for number in range(40):
        with pytest.raises(NotOffered):
            await line.stream().ask(number, item(number), PATIENCE)


async def test_a_server_that_says_no_word_gets_the_list_after_a_while(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_asking, "_FIRST_WORD", 0.05)
    monkeypatch.setattr(_asking, "ACCEPTED", "what no server says")
    assert (await line.stream().ask(1, item(1, b"a"), PATIENCE)).reply == b"a"


async def test_closing_ends_what_is_under_way_and_takes_nothing_more(line: Line) -> None:
    line.service.gates[1] = asyncio.Event()
    stream = line.stream()
    held = asyncio.create_task(stream.ask(1, item(1), PATIENCE))
    await line.service.until(lambda: 1 in line.service.arrived)
    await stream.close()
    with pytest.raises(StreamEnded):
        await held
    with pytest.raises(StreamEnded):
        await stream.ask(2, item(2), PATIENCE)
    await stream.close()


async def test_a_channel_that_is_closed_under_a_stream_ends_its_items(line: Line) -> None:
    line.service.gates[1] = asyncio.Event()
    stream = line.stream()
    held = asyncio.create_task(stream.ask(1, item(1), PATIENCE))
    await line.service.until(lambda: 1 in line.service.arrived)
    await line.channel.close()
    with pytest.raises(StreamEnded):
        await held
    with pytest.raises(StreamEnded):
        await stream.ask(2, item(2), PATIENCE)


async def test_a_server_that_ends_answers_what_it_took_and_takes_nothing_more(line: Line) -> None:
    line.service.gates[1] = asyncio.Event()
    stream = line.stream()
    held = asyncio.create_task(stream.ask(1, item(1, b"kept"), PATIENCE))
    await line.service.until(lambda: 1 in line.service.arrived)
    line.service.server.end()
    late = asyncio.create_task(stream.ask(2, item(2), PATIENCE))
    line.service.gates[1].set()
    assert (await held).reply == b"kept"
    with pytest.raises(StreamEnded):
        await late
    assert line.service.arrived == [1]


async def test_more_than_a_stream_may_have_at_once_is_turned_away_item_by_item(line: Line) -> None:
    service = Service(at_once=2)
    await line.server.stop(None)
    line.server, _ = await start(service, line.port)
    await line.channel.channel_ready()
    service.gates = {1: asyncio.Event(), 2: asyncio.Event()}
    stream = line.stream()
    held = [asyncio.create_task(stream.ask(n, item(n), PATIENCE)) for n in (1, 2)]
    await service.until(lambda: len(service.arrived) == 2)
    turned_away = await stream.ask(3, item(3), PATIENCE)
    assert turned_away.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    for gate in service.gates.values():
        gate.set()
    assert [(await each).id for each in held] == [1, 2]


async def test_who_asks_and_does_not_listen_is_not_read_any_further(line: Line) -> None:
    service = Service(at_once=4)
    await line.server.stop(None)
    line.server, _ = await start(service, line.port)
    await line.channel.channel_ready()
    method: Any = line.channel.stream_stream("/tcc.v1.Participant/TryStream")
    call = method()  # raw bytes, of which no answer is read
    large = b"x" * 200_000
    try:
        async with asyncio.timeout(2):
            for number in range(400):
                await call.write(listed([item(number, large)]))
        raise AssertionError("80 MB were taken from somebody who reads no answers")
    except TimeoutError:
        pass
    finally:
        call.cancel()
    assert len(service.arrived) < 400
