"""The contract of the Log seam, the same for every implementation: `list` and `adopt`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tcc_server.core.model import State
from tcc_server.log.seam import READER, Filter, Log, LogConflict, Row
from tests.log.conftest import Place
from tests.log.rows import finished, new_row, next_row


def gids(rows: Any) -> list[str]:
    return [row.key.gid for row in rows]


async def pages(log: Log, wanted: Filter, page_size: int) -> list[list[str]]:
    page = await log.list(wanted, page_size)
    all_pages = [gids(page.rows)]
    while page.next_token is not None:
        page = await log.list(wanted, page_size, page.next_token)
        all_pages.append(gids(page.rows))
    return all_pages


async def test_list_gives_the_newest_first_in_pages_with_gid_as_tie_break(log: Log) -> None:
    for gid, begun_at in {"a": 1.0, "b": 3.0, "c": 2.1, "d": 2.1, "e": 2.1, "f": 0.1 + 0.2}.items():
        await log.append(new_row(gid, begun_at=begun_at))
    assert await pages(log, Filter("default"), 2) == [["b", "e"], ["d", "c"], ["a", "f"]]
    assert await pages(log, Filter("default"), 4) == [["b", "e", "d", "c"], ["a", "f"]]
    assert await pages(log, Filter("default"), 100) == [["b", "e", "d", "c", "a", "f"]]


async def test_paging_neither_repeats_nor_skips_when_newer_rows_come_between(log: Log) -> None:
    for gid, begun_at in {"a": 1.0, "b": 2.0, "c": 3.0}.items():
        await log.append(new_row(gid, begun_at=begun_at))
    first = await log.list(Filter("default"), 2)
    await log.append(new_row("newer", begun_at=4.0))
    second = await log.list(Filter("default"), 2, first.next_token)
    assert (gids(first.rows), gids(second.rows), second.next_token) == (["c", "b"], ["a"], None)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter("default"), ["d", "c", "b", "a"]),
        (Filter("other"), ["z"]),
        (Filter("none"), []),
        (Filter("default", states=[State.TRYING]), ["c", "b", "a"]),
        (Filter("default", states={State.CONFIRMED, State.CANCELLED}), ["d"]),
        (Filter("default", attention=True), ["b"]),
        (Filter("default", attention=False), ["d", "c", "a"]),
        (Filter("default", name="transfer"), ["d", "b", "a"]),
        (Filter("default", name="trans"), []),
        (Filter("default", name="%"), []),
        (Filter("default", gids=["a", "d", "z"]), ["d", "a"]),
        (Filter("default", begun_from=2.0), ["d", "c", "b"]),
        (Filter("default", begun_before=2.0), ["a"]),
        (Filter("default", states=[State.TRYING], name="transfer", begun_from=1.5, attention=True), ["b"]),
    ],
)
async def test_list_filters(log: Log, wanted: Filter, expected: list[str]) -> None:
    await log.append(new_row("a", begun_at=1.0))
    await log.append(new_row("b", begun_at=2.0, attention=True))
    await log.append(new_row("c", begun_at=3.0, name="transfer%"))
    last = new_row("d", begun_at=4.0)
    await log.append(last)
    await log.append(finished(last))
    await log.append(new_row("z", namespace="other"))
    assert gids((await log.list(wanted, 100)).rows) == expected


async def test_pages_of_several_states_are_in_one_order_and_a_state_named_twice_counts_once(log: Log) -> None:
    for gid, begun_at in {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0, "e": 4.0, "f": 5.0}.items():
        row = new_row(gid, begun_at=begun_at, state=State.CONFIRMING if gid in "be" else State.TRYING)
        await log.append(row)
        if gid in "df":
            await log.append(finished(row))
    wanted = Filter("default", states=[State.CONFIRMING, State.TRYING, State.CANCELLING, State.TRYING])
    assert await pages(log, wanted, 2) == [["e", "c"], ["b", "a"]]
    assert await pages(log, wanted, 10) == [["e", "c", "b", "a"]]


@pytest.mark.parametrize("token", ["", "x", "!!!!", "bnVsbA", "WzEsMl0", "WzEuMCwgMl0", "\u00e9", "WzEuMCwiYSIsMV0"])
async def test_a_page_token_that_no_list_gave_is_an_error(log: Log, token: str) -> None:
    with pytest.raises(ValueError, match="page token"):
        await log.list(Filter("default"), 10, token)


async def test_a_page_of_no_rows_is_an_error(log: Log) -> None:
    with pytest.raises(ValueError, match="page_size"):
        await log.list(Filter("default"), 0)


async def leave_open(place: Place, *rows: Row) -> Log:
    """Rows appended by a first replica that is gone, and the log of the second."""
    log = await place.start("first")
    for row in rows:
        await log.append(row)
    return await place.restart("second")


async def test_adopt_takes_unfinished_rows_of_the_dead_earliest_wake_first(place: Place) -> None:
    done = new_row("done")
    log = await leave_open(
        place, new_row("late", wake_at=30.0), new_row("soon", wake_at=10.0), new_row("mid", wake_at=20.0), done
    )
    await log.append(finished(done))
    assert gids(await log.adopt(2)) == ["soon", "mid"]
    assert gids(await log.adopt(2)) == ["late"]
    assert await log.adopt(2) == []


async def test_what_several_dead_replicas_left_is_adopted_in_one_order(place: Place) -> None:
    log = await place.start("z-first")
    await log.append(new_row("a", wake_at=30.0))
    await log.append(new_row("b", wake_at=10.0))
    log = await place.restart("a-second")
    await log.append(new_row("c", wake_at=20.0))
    await log.append(new_row("unreadable", wake_at=15.0, min_reader=READER + 1))
    await log.append(new_row("d", wake_at=10.0))
    log = await place.restart("m-third")
    await log.append(new_row("mine", wake_at=12.0))
    assert [gids(await log.adopt(2)) for _ in range(3)] == [["b", "d"], ["c", "a"], []]


async def test_rows_that_wake_at_the_same_moment_are_all_adopted_whatever_the_batch(place: Place) -> None:
    rows = [new_row(f"t-{number % 5}", namespace=f"n-{number // 5}", wake_at=10.0) for number in range(25)]
    log = await leave_open(place, *rows)
    adopted: list[Row] = []
    while batch := await log.adopt(3):
        adopted += batch
    assert [row.key for row in adopted] == [row.key for row in rows]


async def test_an_adopted_row_is_the_stored_one_raised_by_one_with_the_new_owner(place: Place) -> None:
    row = new_row(attention=True)
    log = await leave_open(place, row)
    (adopted,) = await log.adopt(10)
    assert (adopted.version, adopted.owner, adopted.body, adopted.progress) == (2, "second", row.body, row.progress)
    assert await log.load([row.key]) == {row.key: adopted}
    await log.append(next_row(adopted))


async def test_the_old_holder_of_an_adopted_row_loses_also_when_it_repeats_its_last_append(place: Place) -> None:
    row = new_row()
    log = await leave_open(place, row)
    (adopted,) = await log.adopt(10)
    for late in (row, next_row(row)):
        with pytest.raises(LogConflict) as conflict:
            await log.append(late)
        assert conflict.value.found == 2
    assert adopted.write_id != row.write_id


async def test_adopt_leaves_this_replica_s_own_rows_and_those_of_a_newer_format_alone(place: Place) -> None:
    log = await leave_open(place, new_row("newer", min_reader=READER + 1), new_row("old"))
    await log.append(new_row("mine"))
    assert gids(await log.adopt(10)) == ["old"]
    assert await log.adopt(10) == []


async def test_what_a_cancelled_adopt_took_is_given_to_the_next_one(place: Place) -> None:
    rows = [new_row(f"t-{number}", wake_at=float(number)) for number in range(6)]
    log = await leave_open(place, *rows)
    task = asyncio.create_task(log.adopt(4))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    adopted = [*await log.adopt(4), *await log.adopt(4)]
    assert sorted(gids(adopted)) == [f"t-{number}" for number in range(6)]
    assert {row.version for row in adopted} == {2}


async def test_concurrent_adopts_share_the_rows_and_give_none_twice(place: Place) -> None:
    log = await leave_open(place, *(new_row(f"t-{number}") for number in range(20)))
    batches = await asyncio.gather(*(log.adopt(6) for _ in range(5)))
    assert sorted(gids(row for batch in batches for row in batch)) == sorted(f"t-{number}" for number in range(20))
