"""The log in an SQLite file: whether it is there, whole, of this version, and on a disk with room left.

The file is only read, and its lock is looked up in the kernel's list instead of being tried: a manager that starts at
this moment must not find it taken.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from sqlalchemy import Connection, text

from tcc_server.doctor.clock import SUBJECT as CLOCK
from tcc_server.doctor.finding import Finding, ok, problem, warning
from tcc_server.log.migrate import explained, head_revision, is_behind, revision_of
from tcc_server.log.seam import LogUnavailable
from tcc_server.log.sqlite_file import SqliteFile

SUBJECT = "log"

_ROOM = 256 * 1024 * 1024
"""Free bytes under which the disk is called nearly full."""

_AHEAD = 2.0
"""Seconds by which the newest transaction may seem to begin in the future."""


def check_sqlite(path: Path, locks: Path = Path("/proc/locks")) -> list[Finding]:
    """Look at a log's file.

    Args:
        path: the file, which need not be there.
        locks: the kernel's list of file locks.
    """
    if not path.exists():
        return [_missing(path), *_disk(path)]
    file = SqliteFile(path)
    try:
        file.require()
        with file.reader() as connection, explained(file.path):
            revision = revision_of(connection, file.path)
            findings = [_schema(file, revision)]
            if revision is not None:
                findings += [_journal(file, connection), *_times(connection)]
    except LogUnavailable as error:
        return [problem(SUBJECT, str(error))]
    return [*findings, _owner(file, locks), *_disk(file.path)]


def _missing(path: Path) -> Finding:
    folder = path.resolve().parent
    if not folder.is_dir():
        return problem(SUBJECT, f"there is no folder {folder} for the log {path.name}", "make it, or name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        return problem(
            SUBJECT, f"{folder} may not be written by this user", "let the manager's user own the log's folder"
        )
    return ok(SUBJECT, f"there is no file {path} yet; a manager makes it when it starts")


def _schema(file: SqliteFile, revision: str | None) -> Finding:
    # Raises for a newer version, in words that say what to do.
    if is_behind(revision, file.path, may_migrate=True):
        state = "is empty" if revision is None else f"is at revision {revision}"
        return ok(SUBJECT, f"{file.path} {state}; a manager brings it to {head_revision()} when it starts")
    return ok(SUBJECT, f"{file.path} is at revision {revision}, which is this version's")


def _journal(file: SqliteFile, connection: Connection) -> Finding:
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    if mode != "wal":
        return warning(
            SUBJECT,
            f"journal_mode is {mode}: no manager wrote it so, and readers will stop its writes",
            f"nothing, if no manager runs: it sets WAL when it starts. Otherwise end what changed {file.path.name}",
        )
    return ok(SUBJECT, "journal_mode is WAL; a manager writes with synchronous = FULL, whatever the file says")


def _times(connection: Connection) -> list[Finding]:
    newest = connection.execute(
        text("SELECT begun_at FROM tcc_transaction WHERE namespace = 'default' ORDER BY begun_at DESC LIMIT 1")
    ).scalar()
    ahead = float(newest or 0.0) - time.time()
    if ahead <= _AHEAD:
        return []
    return [
        warning(
            CLOCK,
            f"the log's newest transaction began {ahead:.0f} s in the future: this machine's clock was put back",
            "let NTP keep the clock; deadlines of transactions that are open now are late by that much",
        )
    ]


def _owner(file: SqliteFile, locks: Path) -> Finding:
    try:
        inode = file.lock_path.stat().st_ino
        held = any(_is_lock_of(line, inode) for line in locks.read_text().splitlines())
    except OSError:
        held = False
    if not held:
        return ok(SUBJECT, "no manager is working on it")
    holder = file.lock_path.read_text(errors="replace").strip() or "unknown"
    return ok(SUBJECT, f"a manager is working on it (process {holder})")


def _is_lock_of(line: str, inode: int) -> bool:
    # 1: FLOCK  ADVISORY  WRITE 3021 08:01:131202 0 EOF
    words = line.split()
    return "FLOCK" in words and any(word.count(":") == 2 and word.endswith(f":{inode}") for word in words)


def _disk(path: Path) -> list[Finding]:
    folder = path.resolve().parent
    if not folder.is_dir():
        return []
    free = shutil.disk_usage(folder).free
    if free < _ROOM:
        return [
            warning(
                SUBJECT,
                f"{free // 2**20} MiB are left on the log's disk: when it is full nothing new is begun or decided",
                "free some space",
            )
        ]
    return [ok(SUBJECT, f"{free / 2**30:.1f} GiB are left on the log's disk")]
