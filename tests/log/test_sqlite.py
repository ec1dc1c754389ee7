"""What is particular to the log on SQLite: shared commits, its lock, SIGKILL, errors of the database."""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tcc_server.core.model import Key
from tcc_server.log import rules, sqlite_file, statements
from tcc_server.log.seam import Filter, LogRejected, LogUnavailable, LogUnknown
from tcc_server.log.sqlite import SqliteLog
from tests.log.rows import new_row, next_row

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(tmp_path / "tcc.db", replica="first")
    await log.open()
    yield log
    await log.close()


def driver_of(log: SqliteLog) -> sqlite3.Connection:
    """The writer's connection, to be used on the writer's thread."""
    return statements.driver_of(log._writer.connect())


@pytest.fixture
def commits(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each commit of the log's writer."""
    seen: list[str] = []
    before_commits(log, monkeypatch, lambda: seen.append("commit"))
    return seen


def before_commits(log: SqliteLog, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Do that on the writer's thread before each group is committed."""
    commit = log._commit

    def committed(database: sqlite3.Connection) -> None:
        do()
        commit(database)

    monkeypatch.setattr(log, "_commit", committed)


async def test_concurrent_appends_share_commits(log: SqliteLog, commits: list[str]) -> None:
    await asyncio.gather(*(log.append(new_row(f"t-{number}")) for number in range(500)))
    assert 1 <= len(commits) <= 10


async def test_the_disk_is_written_through_at_each_commit(log: SqliteLog) -> None:
    pragmas = await log._writer.run(
        lambda: [driver_of(log).execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    )
    assert pragmas == ["wal", 2]


async def test_a_row_that_the_database_refuses_fails_alone_in_its_group(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_PAYLOAD", 1 << 30)
    taken = new_row("taken")
    await log.append(taken)
    verdicts = await asyncio.gather(
        log.append(new_row("good")),
        log.append(new_row("too-big", body=b"x" * (8 * 1024 * 1024 + 1))),
        log.append(new_row("no-integer", min_reader=2**70)),
        log.append(next_row(taken)),
        return_exceptions=True,
    )
    assert [type(verdict) for verdict in verdicts] == [type(None), LogRejected, LogRejected, type(None)]
    stored = await log.load([Key("default", gid) for gid in ("good", "too-big", "no-integer", "taken")])
    assert {key.gid: row.version for key, row in stored.items()} == {"good": 1, "taken": 2}


async def test_a_commit_that_fails_makes_the_group_unknown_and_the_next_append_goes_on(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [sqlite3.OperationalError("disk I/O error")]

    def fail() -> None:
        if faults:
            raise faults.pop()

    before_commits(log, monkeypatch, fail)
    rows = [new_row(f"t-{number}") for number in range(5)]
    verdicts = await asyncio.gather(*(log.append(row) for row in rows), return_exceptions=True)
    assert [type(verdict) for verdict in verdicts] == [LogUnknown] * 5
    assert "disk I/O error" in str(verdicts[0])
    await asyncio.gather(*(log.append(row) for row in rows))
    assert len(await log.load([row.key for row in rows])) == 5


async def test_a_full_disk_makes_appends_unknown_with_advice_and_work_goes_on_with_room(log: SqliteLog) -> None:
    await log._writer.run(lambda: driver_of(log).execute("PRAGMA max_page_count = 20").close())
    with pytest.raises(LogUnknown, match=r"disk is full: free some space"):
        await log.append(new_row(body=b"x" * 200_000))
    await log.append(new_row(body=b"x" * 200_000))  # the writer has connected anew, without the limit


async def test_another_program_s_lock_makes_appends_unknown_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.0)
    log = SqliteLog(tmp_path / "tcc.db", replica="first")
    await log.open()
    other = sqlite3.connect(tmp_path / "tcc.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnknown, match="another program holds it locked"):
            await log.append(new_row())
        with pytest.raises(LogUnavailable, match="another program holds it locked"):
            await log.adopt(10)
        other.execute("ROLLBACK")
        await log.append(new_row())
    finally:
        other.close()
        await log.close()


async def test_rows_whose_adoption_had_an_unknown_commit_are_adopted_again(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "tcc.db", replica="first")
    await log.open()
    await log.append(new_row())
    await log.close()
    log = SqliteLog(tmp_path / "tcc.db", replica="second")
    await log.open()
    real_adopt = log._adopt

    def commit_then_fail(limit: int) -> None:
        real_adopt(limit)
        raise LogUnavailable("the answer was lost")

    log._adopt = commit_then_fail  # type: ignore[assignment,method-assign]  # the fault: done, then error
    with pytest.raises(LogUnavailable):
        await log.adopt(10)
    log._adopt = real_adopt  # type: ignore[method-assign]  # the fault is over
    (adopted,) = await log.adopt(10)
    assert (adopted.version, adopted.owner) == (2, "second")
    assert await log.adopt(10) == []
    await log.close()


async def test_reads_do_not_wait_for_a_write_under_way(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.append(new_row())
    go, begun = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go.wait(30)

    before_commits(log, monkeypatch, hold)
    writing = asyncio.ensure_future(log.append(new_row("t-2")))
    try:
        await asyncio.to_thread(begun.wait, 30)
        page = await log.list(Filter("default"), 10)
        assert [row.key.gid for row in page.rows] == ["t-1"]
        assert not writing.done()
    finally:
        go.set()
    await writing


async def test_a_second_manager_is_told_which_file_and_who_uses_it(log: SqliteLog, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "tcc.db")
    for path in (tmp_path / "tcc.db", tmp_path / "link.db"):
        second = SqliteLog(path, replica="second")
        with pytest.raises(LogUnavailable, match=r"tcc\.db is in use by another manager \(process \d+\)"):
            await second.open()
    await log.append(new_row())


async def test_every_append_acknowledged_before_sigkill_is_there_after_it(tmp_path: Path) -> None:
    path = tmp_path / "tcc.db"
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.log.acknowledge", str(path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        acknowledged = [await process.stdout.readline() for _ in range(150)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [line for line in (await process.stdout.read()).splitlines(keepends=True) if line[-1:] == b"\n"]
        await process.wait()
        log = SqliteLog(path, replica="next")
        await log.open()
        versions: dict[str, int] = {}
        for line in acknowledged:
            gid, version = line.decode().split()
            versions[gid] = int(version)
        stored = await log.load([Key("default", gid) for gid in versions])
        await log.close()
        path.unlink()
        assert len(versions) >= 70
        missing = {gid: at for gid, at in versions.items() if stored.get(Key("default", gid)) is None}
        assert missing == {}
        assert all(stored[Key("default", gid)].version >= at for gid, at in versions.items())


async def test_no_thread_and_no_lock_is_left_behind_also_after_a_failed_open(tmp_path: Path) -> None:
    before = threading.active_count()
    path = tmp_path / "tcc.db"
    path.write_bytes(b"this is no database, it is a text")
    log = SqliteLog(path, replica="first")
    with pytest.raises(LogUnavailable, match="not a SQLite database"):
        await log.open()
    path.unlink()
    again = SqliteLog(path, replica="first")
    await again.open()
    await again.close()
    for thread in threading.enumerate():
        if thread.name.startswith("log-"):
            thread.join(30)
    assert threading.active_count() <= before


async def test_a_database_that_cannot_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "missing" / "tcc.db", replica="first")
    with pytest.raises(LogUnavailable, match=r"missing/tcc\.db.*No such file or directory"):
        await log.open()


async def test_a_log_is_not_opened_twice_and_not_used_before(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "tcc.db", replica="first")
    with pytest.raises(LogUnknown, match="not open"):
        await log.append(new_row())
    with pytest.raises(LogUnavailable, match="not open"):
        await log.adopt(1)
    await log.open()
    with pytest.raises(LogUnavailable, match="opened before"):
        await log.open()
    await log.close()


async def test_opening_changes_no_logging(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (logging.root.level, list(logging.root.handlers), logging.getLogger("alembic").level)
    log = SqliteLog(tmp_path / "tcc.db", replica="first")
    await log.open()
    await log.close()
    assert (logging.root.level, list(logging.root.handlers), logging.getLogger("alembic").level) == before
    assert capfd.readouterr() == ("", "")
