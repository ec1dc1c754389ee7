"""The contract of the Log seam, the same for every implementation: `append`, `load` and restarts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tcc_server.core.model import Key, State
from tcc_server.log.rules import MAX_PAYLOAD
from tcc_server.log.seam import Log, LogConflict, LogRejected, LogUnavailable, LogUnknown, Row
from tests.log.conftest import Place
from tests.log.rows import finished, new_row, next_row


async def stored(log: Log, row: Row) -> Row:
    return (await log.load([row.key]))[row.key]


async def test_an_appended_row_is_read_back_as_it_was_written(log: Log) -> None:
    row = new_row(attention=True, min_reader=1, wake_at=None, state=State.MIXED, decided_at=0.1, finished_at=0.3)
    await log.append(row)
    assert await stored(log, row) == replace(row, owner="first")


async def test_an_update_without_a_body_keeps_the_stored_one(log: Log) -> None:
    row = new_row(body=b"\x00plan")
    await log.append(row)
    await log.append(next_row(row, progress=b"decided"))
    after = await stored(log, row)
    assert (after.version, after.body, after.progress) == (2, b"\x00plan", b"decided")


async def test_an_update_with_a_body_replaces_it_even_by_an_empty_one(log: Log) -> None:
    row = new_row()
    await log.append(row)
    await log.append(next_row(row, body=b""))
    assert (await stored(log, row)).body == b""


async def test_a_second_insert_of_a_key_is_a_conflict_that_says_the_stored_version(log: Log) -> None:
    first = new_row()
    await log.append(first)
    await log.append(next_row(first))
    with pytest.raises(LogConflict) as conflict:
        await log.append(new_row(progress=b"another"))
    assert (conflict.value.key, conflict.value.found) == (first.key, 2)
    assert (await stored(log, first)).progress == b"begun"


@pytest.mark.parametrize("version", [2, 3, 5])
async def test_an_append_at_another_version_than_the_next_changes_nothing(log: Log, version: int) -> None:
    row = new_row()
    for at in range(2, 4):
        await log.append(row)
        row = next_row(row, version=at)
    await log.append(row)
    with pytest.raises(LogConflict) as conflict:
        await log.append(next_row(row, version=version, progress=b"wrong"))
    assert conflict.value.found == 3
    assert (await stored(log, row)).progress == b"begun"


async def test_an_update_of_a_row_that_is_not_there_is_a_conflict_with_version_0(log: Log) -> None:
    with pytest.raises(LogConflict) as conflict:
        await log.append(new_row(version=2))
    assert conflict.value.found == 0
    assert await log.load([Key("default", "t-1")]) == {}


async def test_the_same_append_again_is_a_success_and_changes_nothing(log: Log) -> None:
    row = new_row()
    await log.append(row)
    await log.append(row)
    update = next_row(row)
    await log.append(update)
    await log.append(update)
    assert (await stored(log, row)).version == 2


async def test_the_same_append_again_after_a_later_one_is_a_conflict(log: Log) -> None:
    row = new_row()
    await log.append(row)
    await log.append(next_row(row))
    with pytest.raises(LogConflict):
        await log.append(row)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"body": b"x" * MAX_PAYLOAD}, "the limit is"),
        ({"progress": b"x" * (MAX_PAYLOAD + 1)}, "the limit is"),
        ({"body": None}, "no body"),
        ({"version": 0}, "version 0"),
        ({"write_id": b"short"}, "write_id"),
        ({"write_id": bytes(16)}, "write_id"),
        ({"wake_at": None}, "only a final state"),
        ({"state": State.CONFIRMED}, "only a final state"),
        ({"wake_at": float("nan")}, "no number"),
        ({"name": "\ud800"}, "Unicode"),
    ],
)
async def test_a_row_that_can_never_be_stored_is_rejected_with_the_reason(
    log: Log, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LogRejected, match=reason):
        await log.append(new_row(**fields))
    assert await log.load([new_row().key]) == {}


async def test_a_rejected_row_fails_only_itself(log: Log) -> None:
    verdicts = await asyncio.gather(
        log.append(new_row("good-1")),
        log.append(new_row("bad", body=None)),
        log.append(new_row("good-2")),
        return_exceptions=True,
    )
    assert [type(verdict) for verdict in verdicts] == [type(None), LogRejected, type(None)]
    assert len(await log.load([Key("default", gid) for gid in ("good-1", "bad", "good-2")])) == 2


async def test_gids_that_are_prefixes_or_patterns_of_others_do_not_touch(log: Log) -> None:
    gids = ["order-1", "order-10", "order_1", "ORDER-1", "order-1~"]
    rows = [new_row(gid, progress=gid.encode()) for gid in gids]
    for row in rows:
        await log.append(row)
    await log.append(finished(rows[0], progress=b"done"))
    loaded = await log.load([row.key for row in rows])
    assert [loaded[row.key].progress for row in rows] == [b"done", b"order-10", b"order_1", b"ORDER-1", b"order-1~"]


async def test_the_same_gid_in_two_namespaces_is_two_transactions(log: Log) -> None:
    one, other = new_row(progress=b"one"), new_row(namespace="other", progress=b"other")
    await log.append(one)
    await log.append(other)
    loaded = await log.load([one.key, other.key])
    assert (loaded[one.key].progress, loaded[other.key].progress) == (b"one", b"other")


async def test_load_gives_only_the_rows_that_exist_and_nothing_for_no_keys(log: Log) -> None:
    await log.append(new_row())
    assert set(await log.load([Key("default", "t-1"), Key("default", "t-2")])) == {Key("default", "t-1")}
    assert await log.load([]) == {}


async def test_load_takes_more_keys_than_a_statement_has_variables(log: Log) -> None:
    await log.append(new_row("t-39999"))
    assert len(await log.load([Key("default", f"t-{number}") for number in range(40_000)])) == 1


async def test_hundreds_of_concurrent_appends_get_each_its_own_verdict(log: Log) -> None:
    taken = [new_row(f"t-{number}") for number in range(0, 400, 2)]
    await asyncio.gather(*(log.append(row) for row in taken))
    verdicts = await asyncio.gather(
        *(log.append(new_row(f"t-{number}")) for number in range(400)),
        *(log.append(next_row(row, progress=b"updated")) for row in taken),
        *(log.append(next_row(row, version=7)) for row in taken),
        return_exceptions=True,
    )
    inserts, updates, stale = verdicts[:400], verdicts[400:600], verdicts[600:]
    assert [type(verdict) for verdict in inserts] == [LogConflict, type(None)] * 200
    assert updates == [None] * 200
    assert {type(verdict) for verdict in stale} == {LogConflict}
    after = await log.load([row.key for row in taken])
    assert {(row.version, row.progress) for row in after.values()} == {(2, b"updated")}


async def test_of_many_concurrent_inserts_of_one_key_exactly_one_wins(log: Log) -> None:
    rows = [new_row(progress=str(number).encode()) for number in range(50)]
    verdicts = await asyncio.gather(*(log.append(row) for row in rows), return_exceptions=True)
    winners = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict is None]
    assert len(winners) == 1
    assert sum(isinstance(verdict, LogConflict) for verdict in verdicts) == 49
    assert (await stored(log, rows[0])).progress == winners[0].progress


async def test_successive_appends_of_one_key_submitted_together_are_written_in_their_order(log: Log) -> None:
    rows = [new_row()]
    while len(rows) < 20:
        rows.append(next_row(rows[-1], progress=str(len(rows)).encode()))
    await asyncio.gather(*(log.append(row) for row in rows))
    assert ((await stored(log, rows[0])).version, (await stored(log, rows[0])).progress) == (20, b"19")


async def test_successive_appends_of_one_key_succeed_also_beside_a_conflict_of_another(log: Log) -> None:
    await log.append(new_row("taken"))
    row = new_row()
    verdicts = await asyncio.gather(
        log.append(row), log.append(next_row(row)), log.append(new_row("taken")), return_exceptions=True
    )
    assert [type(verdict) for verdict in verdicts] == [type(None), type(None), LogConflict]


async def test_a_cancelled_append_harms_no_other(log: Log) -> None:
    tasks = [asyncio.ensure_future(log.append(new_row(f"t-{number}"))) for number in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    verdicts = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(verdict is None for number, verdict in enumerate(verdicts) if number % 3)
    kept = await log.load([Key("default", f"t-{number}") for number in range(100) if number % 3])
    assert len(kept) == 66


async def test_what_was_acknowledged_is_there_after_a_restart(place: Place) -> None:
    log = await place.start("first")
    rows = [new_row(f"t-{number}") for number in range(20)]
    await asyncio.gather(*(log.append(row) for row in rows))
    again = await place.restart("second")
    assert await again.load([row.key for row in rows]) == {row.key: replace(row, owner="first") for row in rows}


async def test_close_finishes_what_was_appended(place: Place) -> None:
    log = await place.start("first")
    rows = [new_row(f"t-{number}") for number in range(200)]
    tasks = [asyncio.ensure_future(log.append(row)) for row in rows]
    await asyncio.sleep(0)
    await log.close()
    verdicts = await asyncio.gather(*tasks, return_exceptions=True)
    again = await place.restart("second")
    found = await again.load([row.key for row in rows])
    assert verdicts == [None] * 200
    assert len(found) == 200


async def test_a_closed_log_says_so_and_closing_again_is_harmless(place: Place) -> None:
    log = await place.start("first")
    await log.close()
    await log.close()
    with pytest.raises(LogUnknown, match="closed"):
        await log.append(new_row())
    with pytest.raises(LogUnavailable, match="closed"):
        await log.load([new_row().key])
