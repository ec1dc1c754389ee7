"""The SQLite file of an embedded log: who may open it, and how connections to it are set up.

The law: whoever writes holds an exclusive lock on `<file>.lock`. The kernel lets go of that lock when its process dies,
however it dies, so holding it proves that the old owner is dead. The lock file stays: removing it would let two
processes lock two files of one name.

Connections are synchronous and belong to one thread each. isolation_level=None keeps the driver from beginning
transactions by itself; SQLAlchemy's begin emits BEGIN IMMEDIATE, which takes the write lock before anything is read.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tcc_server.log.seam import LogUnavailable

BUSY_TIMEOUT = 1.0
"""Seconds to wait for another program, such as a backup, that holds the database's write lock."""

_HEADER = b"SQLite format 3\x00"

_REASONS = {
    "SQLITE_FULL": "the disk is full: free some space, the manager goes on by itself",
    "SQLITE_READONLY": "it cannot be written: check the file's and its folder's permissions",
    "SQLITE_BUSY": "another program holds it locked: end that program, the manager goes on by itself",
    "SQLITE_LOCKED": "another program holds it locked: end that program, the manager goes on by itself",
    "SQLITE_CANTOPEN": "it cannot be opened: check that it and its folder exist and may be written",
    "SQLITE_IOERR": "the disk fails to read or write it: check the machine's log",
    "SQLITE_CORRUPT": "it is damaged: stop the manager and restore a backup",
    "SQLITE_NOTADB": "it is not a SQLite database: give the manager a file of its own",
}


def explain(error: Exception, path: Path) -> str:
    """What is wrong with the database, in words that say what to do."""
    if isinstance(error, LogUnavailable):
        return str(error)
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    code: str = getattr(cause, "sqlite_errorname", "")
    for name, reason in _REASONS.items():
        if code == name or code.startswith(f"{name}_"):
            return f"database {path}: {reason} ({cause})"
    return f"database {path}: {cause}"


class SqliteFile:
    """One database file.

    Args:
        path: resolved at once, so that a symlink's two names share one lock.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        self.lock_path = self.path.with_name(self.path.name + ".lock")
        self._lock: int | None = None
        self._writers = self._engine("journal_mode = WAL", "synchronous = FULL")
        self._readers = self._engine("query_only = ON")
        event.listen(self._writers, "begin", _begin_immediate)

    def acquire(self) -> None:
        """Take the exclusive lock. Raises LogUnavailable if another process has it, naming that process."""
        try:
            lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LogUnavailable(f"{self.lock_path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise LogUnavailable(
                f"database {self.path} is in use by another manager (process {holder}): stop that one first, "
                "or give this one a file of its own"
            ) from None
        except OSError as error:
            os.close(lock)
            raise LogUnavailable(f"{self.lock_path} cannot be locked: {error.strerror}") from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def release(self) -> None:
        """Let go of the lock. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for a while."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def create(self) -> None:
        """Make the file if there is none, for its owner's eyes only: it will hold what clients sent."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise LogUnavailable(f"database {self.path} cannot be opened for writing: {error.strerror}") from error
        self.require()

    def require(self) -> None:
        """Raises LogUnavailable unless the file is there and is a SQLite database, or empty."""
        try:
            with self.path.open("rb") as file:
                head = file.read(len(_HEADER))
        except OSError as error:
            raise LogUnavailable(f"database {self.path} cannot be read: {error.strerror}") from error
        if head not in (b"", _HEADER):
            raise LogUnavailable(f"{self.path} is not a SQLite database: give the manager a file of its own")

    def writer(self) -> Connection:
        """A new connection that writes: WAL, and every commit on the disk before it returns. Raises LogUnavailable."""
        return self._connect(self._writers)

    def reader(self) -> Connection:
        """A new connection that reads beside the writer and can change nothing. Raises LogUnavailable."""
        return self._connect(self._readers)

    def _connect(self, engine: Engine) -> Connection:
        try:
            return engine.connect()
        except DBAPIError as error:
            raise LogUnavailable(explain(error, self.path)) from error

    def _engine(self, *pragmas: str) -> Engine:
        # mode=rw: a file that was removed under a running manager must not come back as an empty one.
        uri = f"file:{quote(str(self.path))}?mode=rw"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT)
            try:
                for pragma in pragmas:
                    connection.execute(f"PRAGMA {pragma}").close()
            except BaseException:
                connection.close()
                raise
            return connection

        return create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool)


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
