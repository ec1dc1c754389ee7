"""Which databases are opened, migrated, or refused with advice."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from tcc_server.log import migrate as migrations, postgres_database
from tcc_server.log.migrate import current_revision, head_revision, migrate
from tcc_server.log.postgres import PostgresLog
from tcc_server.log.postgres_database import PostgresDatabase
from tcc_server.log.schema import VERSION_TABLE, metadata
from tcc_server.log.seam import Log, LogUnavailable
from tcc_server.log.sqlite import SqliteLog
from tcc_server.log.sqlite_file import SqliteFile
from tests.log.rows import finished, new_row
from tests.servers.postgres import Postgres
from tests.servers.running import RunningPostgres


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("form", ["{path}", "sqlite:///{path}", "sqlite+aiosqlite:///{path}"])
def test_migrate_makes_a_database_at_the_head_revision_and_again_does_nothing(tmp_path: Path, form: str) -> None:
    database = form.format(path=tmp_path / "tcc 100%.db")
    assert migrate(database) == head_revision()
    assert migrate(database) == head_revision()
    assert current_revision(database) == head_revision()


def test_the_migrations_make_exactly_the_schema_that_the_code_uses(tmp_path: Path) -> None:
    migrate(tmp_path / "tcc.db")
    with SqliteFile(tmp_path / "tcc.db").reader() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    metadata_ddl = SqliteFile(tmp_path / "direct.db")
    metadata_ddl.create()
    with metadata_ddl.writer() as connection, connection.begin():
        metadata.create_all(connection)
    assert ddl_of(tmp_path / "direct.db") == ddl_of(tmp_path / "tcc.db")


def ddl_of(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    found = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> ?", [VERSION_TABLE]
    )
    ddl = {name: "".join(sql.split()).lower() for name, sql in found}
    connection.close()
    return ddl


async def test_a_newer_database_is_refused_untouched_and_says_to_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "tcc.db"
    migrate(path)
    execute(path, "UPDATE tcc_log_version SET version_num = '9999'")
    log = SqliteLog(path, replica="first")
    with pytest.raises(LogUnavailable, match=r"newer version \(revision 9999\).*knows up to 0003: upgrade"):
        await log.open()
    with pytest.raises(LogUnavailable, match="newer version"):
        migrate(path)
    assert current_revision(path) == "9999"


async def test_a_database_of_something_else_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    execute(path, "CREATE TABLE account (id TEXT)")
    before = path.read_bytes()
    log = SqliteLog(path, replica="first")
    with pytest.raises(LogUnavailable, match=r"accounts\.db is not the database of a TCC manager, it holds account"):
        await log.open()
    assert path.read_bytes() == before


async def test_an_empty_database_is_left_to_tcc_migrate_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "tcc.db"
    careful = SqliteLog(path, replica="first", auto_migrate=False)
    with pytest.raises(LogUnavailable, match="run `tcc migrate`"):
        await careful.open()
    migrate(path)
    careful = SqliteLog(path, replica="first", auto_migrate=False)
    await careful.open()
    await careful.append(new_row())
    await careful.close()


NEXT_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

def upgrade():
    op.add_column("tcc_transaction", sa.Column("extra", sa.String))
    {then}
"""


@pytest.fixture
def next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a revision 0004 that this version is made to know; the database at tcc.db is at 0003."""
    migrate(tmp_path / "tcc.db")
    scripts = tmp_path / "scripts"
    shutil.copytree(migrations.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "SCRIPTS", scripts)
    script = scripts / "versions" / "r0004_next.py"
    script.write_text(NEXT_REVISION.format(then="pass"))
    return script


async def test_an_older_database_is_left_to_tcc_migrate_unless_asked(tmp_path: Path, next_revision: Path) -> None:
    path = tmp_path / "tcc.db"
    careful = SqliteLog(path, replica="first", auto_migrate=False)
    with pytest.raises(LogUnavailable, match=r"older version \(revision 0003\).*needs 0004: run `tcc migrate`"):
        await careful.open()
    assert current_revision(path) == "0003"
    embedded = SqliteLog(path, replica="first")
    await embedded.open()
    await embedded.close()
    assert current_revision(path) == "0004"


def test_a_migration_that_fails_half_way_leaves_the_old_schema(tmp_path: Path, next_revision: Path) -> None:
    path = tmp_path / "tcc.db"
    before = ddl_of(path)
    next_revision.write_text(NEXT_REVISION.format(then='op.execute("SELECT nonsense")'))
    with pytest.raises(LogUnavailable, match="nonsense"):
        migrate(path)
    assert current_revision(path) == "0003"
    assert ddl_of(path) == before


@contextmanager
def version_of_0002(tmp_path: Path) -> Iterator[None]:
    """This version as if 0002 were its head still."""
    scripts = tmp_path / "scripts"
    shutil.copytree(migrations.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__", "r0003_*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "SCRIPTS", scripts)
        yield


async def leave_open(log: Log) -> None:
    """Some rows of a replica that is gone then, one of them finished."""
    await log.open()
    done = new_row("done")
    for row in (done, finished(done), *(new_row(f"t-{number}", wake_at=float(number)) for number in range(5))):
        await log.append(row)
    await log.close()


async def adopt_in_batches(log: Log) -> list[str]:
    await log.open()
    gids = [row.key.gid for _ in range(3) for row in await log.adopt(2)]
    await log.close()
    return gids


async def test_a_database_of_0002_keeps_its_rows_and_they_are_adopted(tmp_path: Path) -> None:
    path = tmp_path / "tcc.db"
    with version_of_0002(tmp_path):
        await leave_open(SqliteLog(path, replica="first"))
    assert current_revision(path) == "0002"
    with pytest.raises(LogUnavailable, match=r"older version \(revision 0002\).*run `tcc migrate`"):
        await SqliteLog(path, replica="second", auto_migrate=False).open()
    assert migrate(path) == "0003"
    assert await adopt_in_batches(SqliteLog(path, replica="second")) == [f"t-{number}" for number in range(5)]


async def test_migrate_refuses_while_a_manager_runs_but_the_revision_can_be_read(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "tcc.db", replica="first")
    await log.open()
    with pytest.raises(LogUnavailable, match="in use by another manager"):
        migrate(tmp_path / "tcc.db")
    assert current_revision(tmp_path / "tcc.db") == head_revision()
    await log.close()


@pytest.mark.parametrize("database", ["mysql://user:secret@host/db", "sqlite://", "sqlite:///:memory:", "x://["])
def test_a_url_of_anything_but_a_sqlite_file_is_refused_without_showing_its_password(database: str) -> None:
    with pytest.raises(LogUnavailable, match="sqlite:///tcc") as refused:
        migrate(database)
    assert "secret" not in str(refused.value)


def test_the_revision_of_a_missing_database_is_an_error_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="No such file"):
        current_revision(tmp_path / "tcc.db")
    assert list(tmp_path.iterdir()) == []


# PostgreSQL


@pytest.fixture
def postgres_url(postgres_server: Postgres | RunningPostgres) -> str:
    return postgres_server.database()


def test_migrations_of_several_replicas_at_once_make_one_schema(postgres_url: str) -> None:
    with ThreadPoolExecutor(4) as replicas:
        revisions = list(replicas.map(migrate, [postgres_url] * 4))
    assert revisions == [head_revision()] * 4
    assert current_revision(postgres_url) == head_revision()
    assert migrate(postgres_url.replace("+asyncpg", "")) == head_revision()


async def test_the_migrations_make_exactly_the_schema_that_the_code_uses_on_postgresql(postgres_url: str) -> None:
    await migrations.migrate_postgres(postgres_url)

    def differences(connection: Connection) -> object:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return compare_metadata(context, metadata)

    database = PostgresDatabase(postgres_url)
    made = await database.transaction(_indexes)
    assert await database.transaction(differences) == []

    def make_directly(connection: Connection) -> None:
        metadata.drop_all(connection)
        metadata.create_all(connection)

    await database.transaction(make_directly)
    assert await database.transaction(_indexes) == made
    await database.close()


def _indexes(connection: Connection) -> list[tuple[str, str]]:
    query = text("SELECT tablename, indexdef FROM pg_indexes WHERE tablename <> :version ORDER BY indexname")
    columns = text(
        "SELECT table_name || '.' || column_name, concat(data_type, collation_name, is_nullable) "
        "FROM information_schema.columns WHERE table_name IN ('tcc_transaction', 'tcc_replica') ORDER BY 1"
    )
    return [
        *((name, ddl) for name, ddl in connection.execute(query, {"version": VERSION_TABLE})),
        *((name, kind) for name, kind in connection.execute(columns)),
    ]


async def test_a_postgresql_database_of_0002_keeps_its_rows_and_they_are_adopted(
    postgres_url: str, tmp_path: Path
) -> None:
    with version_of_0002(tmp_path):
        await leave_open(PostgresLog(postgres_url, replica="first", auto_migrate=True))
        running = PostgresLog(postgres_url, replica="running")
        await running.open()
    with pytest.raises(LogUnavailable, match=r"older version \(revision 0002\).*run `tcc migrate`"):
        await PostgresLog(postgres_url, replica="second").open()
    assert await migrations.migrate_postgres(postgres_url) == "0003"
    await running.append(new_row("while it runs"))
    assert await adopt_in_batches(PostgresLog(postgres_url, replica="second")) == [f"t-{number}" for number in range(5)]
    await running.close()


async def test_a_migration_may_take_longer_than_any_other_statement(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrations.migrate_postgres(postgres_url)
    scripts = tmp_path / "scripts"
    shutil.copytree(migrations.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    slow = NEXT_REVISION.format(then='op.execute("SELECT pg_sleep(1.0)")')
    (scripts / "versions" / "r0004_next.py").write_text(slow)
    monkeypatch.setattr(migrations, "SCRIPTS", scripts)
    monkeypatch.setattr(postgres_database, "COMMAND_TIMEOUT", 0.5)
    assert await migrations.migrate_postgres(postgres_url) == "0004"


async def test_a_postgresql_database_is_left_to_tcc_migrate(postgres_url: str) -> None:
    log = PostgresLog(postgres_url, replica="first")
    with pytest.raises(LogUnavailable, match=r"is empty.*run `tcc migrate`"):
        await log.open()
    await migrations.migrate_postgres(postgres_url)
    log = PostgresLog(postgres_url, replica="first")
    await log.open()
    await migrations.migrate_postgres(postgres_url)  # also while a manager runs
    await log.close()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TABLE account (id TEXT)", "is not the database of a TCC manager, it holds account"),
        ("CREATE TABLE tcc_log_version AS SELECT '9999' AS version_num", r"newer version \(revision 9999\)"),
    ],
)
async def test_a_postgresql_database_of_something_else_or_newer_is_refused(
    postgres_url: str, statement: str, reason: str
) -> None:
    database = PostgresDatabase(postgres_url)
    await database.transaction(lambda connection: connection.execute(text(statement)))
    await database.close()
    with pytest.raises(LogUnavailable, match=reason):
        await migrations.migrate_postgres(postgres_url)
