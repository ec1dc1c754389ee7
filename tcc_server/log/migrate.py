"""Brings the log's schema to the revision that this version knows, or says in words why it must not.

Three kinds of database are refused and left untouched: one of a newer version, one that holds other tables, and, unless
asked to migrate, one that is older or empty. A migration is one database transaction: a crash leaves the old schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tcc_server.log.schema import VERSION_TABLE
from tcc_server.log.seam import LogUnavailable
from tcc_server.log.sqlite_file import SqliteFile, explain

SCRIPTS = Path(__file__).parent / "migrations"
"""The Alembic environment."""


def head_revision() -> str:
    """The revision that this version of the package reads and writes."""
    head = ScriptDirectory(str(SCRIPTS)).get_current_head()
    if head is None:
        raise LogUnavailable(f"the package is incomplete: no migrations in {SCRIPTS}; install it again")
    return head


def current_revision(database: str | Path) -> str | None:
    """The revision of a database; None for one that is empty. Safe while a manager runs.

    Args:
        database: a path, or a URL such as sqlite:///tcc.db.

    Raises:
        LogUnavailable: there is no such database, it cannot be read, or it is none of a TCC manager.
    """
    file = SqliteFile(path_of(database))
    file.require()
    with file.reader() as connection, explained(file.path):
        return revision_of(connection, file.path)


def migrate(database: str | Path) -> str:
    """Bring a database to `head_revision`, making it if there is none; returns the revision. Idempotent.

    Args:
        database: a path, or a URL such as sqlite:///tcc.db.

    Raises:
        LogUnavailable: a manager is using it, it is of a newer version, or it is none of a TCC manager.
    """
    file = SqliteFile(path_of(database))
    with file.locked():
        prepare(file, may_migrate=True)
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


def revision_of(connection: Connection, path: Path) -> str | None:
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
            f"{path} is not the database of a TCC manager, it holds {held}: give the manager its own file"
        )
    return revision


def prepare(file: SqliteFile, *, may_migrate: bool) -> None:
    """Check the revision of a locked database, and migrate it, or make it, where that is wanted.

    Raises:
        LogUnavailable: it is older or empty and `may_migrate` is not set, newer, or holds something else.
    """
    file.create()
    head = head_revision()
    with file.reader() as connection, explained(file.path):  # a database that is refused is not even switched to WAL
        current = revision_of(connection, file.path)
    if current == head:
        return
    if current is not None and current not in _revisions():
        raise LogUnavailable(
            f"database {file.path} is of a newer version (revision {current}); "
            f"this tcc-toolkit knows up to {head}: upgrade tcc-toolkit"
        )
    if not may_migrate:
        state = "is empty" if current is None else f"is of an older version (revision {current})"
        raise LogUnavailable(f"database {file.path} {state}; this tcc-toolkit needs {head}: run `tcc migrate`")
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    with file.writer() as connection, explained(file.path), connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the database's errors into LogUnavailable, in words that say what to do."""
    try:
        yield
    except SQLAlchemyError as error:
        raise LogUnavailable(explain(error, path)) from error


def _revisions() -> set[str]:
    return {script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()}
