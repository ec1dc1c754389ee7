"""The doctor on a log in an SQLite file."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tcc_server.doctor.finding import Level
from tcc_server.doctor.sqlite import check_sqlite
from tcc_server.log.migrate import head_revision, migrate
from tcc_server.log.sqlite_file import SqliteFile
from tests.doctor.looks import levels, only, said


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "tcc.db"
    migrate(path)
    return path


def test_a_log_of_this_version_is_well_and_is_not_changed_by_the_look(log: Path) -> None:
    before = hashlib.sha256(log.read_bytes()).digest()
    findings = check_sqlite(log)
    assert levels(findings) == {Level.OK}
    assert head_revision() in said(findings)
    assert "no manager is working on it" in said(findings)
    assert hashlib.sha256(log.read_bytes()).digest() == before


def test_a_manager_that_works_on_it_is_named_and_not_disturbed(log: Path) -> None:
    file = SqliteFile(log)
    with file.locked():
        findings = check_sqlite(log)
        assert levels(findings) == {Level.OK}
        assert f"a manager is working on it (process {os.getpid()})" in said(findings)


def test_a_look_never_takes_the_lock_that_a_starting_manager_needs(log: Path, tmp_path: Path) -> None:
    (tmp_path / "tcc.db.lock").unlink(missing_ok=True)
    check_sqlite(log)
    assert not (tmp_path / "tcc.db.lock").exists()


def test_a_log_that_is_not_there_yet_is_well_and_stays_away(tmp_path: Path) -> None:
    path = tmp_path / "tcc.db"
    assert levels(check_sqlite(path)) == {Level.OK}
    assert not path.exists()


def test_a_folder_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    finding = only(check_sqlite(tmp_path / "nowhere" / "tcc.db"), Level.PROBLEM)
    assert "there is no folder" in finding.found
    assert finding.mend


def test_a_log_of_a_newer_version_is_a_problem_that_says_to_upgrade(log: Path) -> None:
    change(log, "UPDATE tcc_log_version SET version_num = '9999'")
    finding = only(check_sqlite(log), Level.PROBLEM)
    assert "newer version (revision 9999)" in finding.found
    assert "upgrade tcc-toolkit" in finding.found


@pytest.mark.parametrize(
    ("content", "said_of_it"),
    [
        (b"no database at all, but text that is long enough to be one", "is not a SQLite database"),
        (None, "it holds mine"),
    ],
    ids=["no database", "somebody else's"],
)
def test_a_file_that_is_no_log_is_a_problem(tmp_path: Path, content: bytes | None, said_of_it: str) -> None:
    path = tmp_path / "tcc.db"
    if content is None:
        change(path, "CREATE TABLE mine (x)")
    else:
        path.write_bytes(content)
    assert said_of_it in only(check_sqlite(path), Level.PROBLEM).found


def test_a_journal_that_is_not_wal_is_a_warning(log: Path) -> None:
    change(log, "PRAGMA journal_mode = DELETE")
    assert "journal_mode is delete" in only(check_sqlite(log), Level.WARNING).found


def test_a_clock_that_was_put_back_is_a_warning(log: Path) -> None:
    later = time.time() + 3600
    row = f"'default', 'g', 1, 'CONFIRMED', '', 'm', NULL, {later}, {later}, {later}, 0, 1, x'00', x'', x''"
    change(log, f"INSERT INTO tcc_transaction VALUES ({row})")  # noqa: S608  our own row
    finding = only(check_sqlite(log), Level.WARNING)
    assert finding.subject == "clock"
    assert "in the future" in finding.found


def test_a_disk_with_little_room_is_a_warning(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - 5 * 2**20, 5 * 2**20))
    assert "5 MiB are left" in only(check_sqlite(log), Level.WARNING).found


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()
