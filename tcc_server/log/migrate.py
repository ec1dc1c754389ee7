"""Brings the log's schema to the revision that this version knows, or says in words why it must not.

Three kinds of database are refused and left untouched: one of a newer version, one that holds other tables, and, unless
asked to migrate, one that is older or empty. A migration is one database transaction: a crash leaves the old schema.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tcc_server.log.postgres_database import PostgresDatabase, is_postgres
from tcc_server.log.schema import VERSION_TABLE
from tcc_server.log.seam import LogUnavailable
from tcc_server.log.sqlite_file import SqliteFile, explain

SCRIPTS = Path(__file__).parent / "migrations"
"""The Alembic environment."""

_MIGRATING = 0x7463632D6C6F67
"""The advisory lock of whoever migrates a PostgreSQL database: "tcc-log" in ASCII."""


def head_revision() -> str:
    """The revision that this version of the package reads and writes."""
    head = ScriptDirectory(str(SCRIPTS)).get_current_head()
    if head is None:
        raise LogUnavailable(f"the package is incomplete: no migrations in {SCRIPTS}; install it again")
    return head


def current_revision(database: str | Path) -> str | None:
    """The revision of a database; None for one that is empty. Safe while a manager runs.

    Args:
        database: a path, or a URL such as sqlite:///tcc.db or postgresql://tcc@host/tcc.

    Raises:
        LogUnavailable: there is no such database, it cannot be read, or it is none of a TCC manager.
    """
    if is_postgres(database):
        return asyncio.run(_postgres_revision(PostgresDatabase(str(database))))
    file = SqliteFile(path_of(database))
    file.require()
    with file.reader() as connection, explained(file.path):
        return revision_of(connection, file.path)


def migrate(database: str | Path) -> str:
    """Bring a database to `head_revision`, making it if there is none; returns the revision. Idempotent.

    On PostgreSQL managers may be running, and several may do this at once: one migrates, the others find it done.

    Args:
        database: a path, or a URL such as sqlite:///tcc.db or postgresql://tcc@host/tcc.

    Raises:
        LogUnavailable: a manager is using the file, the database is of a newer version, cannot be reached, or is none
            of a TCC manager.
    """
    if is_postgres(database):
        return asyncio.run(migrate_postgres(str(database)))
    file = SqliteFile(path_of(database))
    with file.locked():
        prepare(file, may_migrate=True)
    return head_revision()


async def migrate_postgres(url: str) -> str:
    """What `migrate` does for a PostgreSQL URL, for callers with an event loop."""
    database = PostgresDatabase(url)
    try:
        await prepare_postgres(database, may_migrate=True)
    finally:
        await database.close()
    return head_revision()


def path_of(database: str | Path) -> Path:
    """The file that a path or a SQLite URL names. Raises LogUnavailable for any other URL."""
    if isinstance(database, Path) or "://" not in database:
        return Path(database)
    try:
        url = make_url(database)
    except ArgumentError:
        raise LogUnavailable("the database URL cannot be read: write it like sqlite:///tcc.db") from None
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise LogUnavailable(
            f"{url.render_as_string()} is not a SQLite file: give a path, or a URL like sqlite:///tcc.db"
        )
    return Path(url.database)


def revision_of(connection: Connection, name: Path | str) -> str | None:
    """The revision of the connected database; None if it is empty. Raises LogUnavailable if it holds something else."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    revision: str | None = None
    if VERSION_TABLE in tables:
        revision = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608  our own constant
    if revision is None:
        held = ", ".join(sorted(tables)[:5])
        raise LogUnavailable(
            f"{name} is not the database of a TCC manager, it holds {held}: give the manager one of its own"
        )
    return revision


def is_behind(current: str | None, name: Path | str, *, may_migrate: bool) -> bool:
    """Whether a database of that revision has to be migrated.

    Raises:
        LogUnavailable: it is older or empty and `may_migrate` is not set, or newer.
    """
    head = head_revision()
    if current == head:
        return False
    if current is not None and current not in _revisions():
        raise LogUnavailable(
            f"database {name} is of a newer version (revision {current}); "
            f"this tcc-toolkit knows up to {head}: upgrade tcc-toolkit"
        )
    if not may_migrate:
        state = "is empty" if current is None else f"is of an older version (revision {current})"
        raise LogUnavailable(f"database {name} {state}; this tcc-toolkit needs {head}: run `tcc migrate`")
    return True


def upgrade(connection: Connection) -> None:
    """Run the migrations that are missing, in the transaction that the connection is in."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def prepare(file: SqliteFile, *, may_migrate: bool) -> None:
    """Check the revision of a locked file, and migrate it, or make it, where that is wanted.

    Raises:
        LogUnavailable: it is older or empty and `may_migrate` is not set, newer, or holds something else.
    """
    file.create()
    with file.reader() as connection, explained(file.path):  # a database that is refused is not even switched to WAL
        current = revision_of(connection, file.path)
    if is_behind(current, file.path, may_migrate=may_migrate):
        with file.writer() as connection, explained(file.path), connection.begin():
            upgrade(connection)


async def prepare_postgres(database: PostgresDatabase, *, may_migrate: bool) -> None:
    """Check the revision of a PostgreSQL database, and migrate it, or fill it, where that is wanted.

    Raises:
        LogUnavailable: as `prepare`, or it cannot be reached.
    """

    def find_out(connection: Connection) -> bool:
        return is_behind(revision_of(connection, database.name), database.name, may_migrate=may_migrate)

    def bring_up(connection: Connection) -> None:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
        if find_out(connection):  # nobody else did it while we waited
            upgrade(connection)

    if await database.transaction(find_out):
        await database.migration(bring_up)


async def _postgres_revision(database: PostgresDatabase) -> str | None:
    try:
        return await database.transaction(lambda connection: revision_of(connection, database.name))
    finally:
        await database.close()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the database's errors into LogUnavailable, in words that say what to do."""
    try:
        yield
    except SQLAlchemyError as error:
        raise LogUnavailable(explain(error, path)) from error


def _revisions() -> set[str]:
    return {script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()}
