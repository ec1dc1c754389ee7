"""The log on PostgreSQL: whether it can be reached and written, keeps what it acknowledges, and is of this version."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tcc_server.doctor.clock import judge
from tcc_server.doctor.finding import Finding, ok, problem, warning
from tcc_server.log.migrate import is_behind, revision_of
from tcc_server.log.postgres_database import PostgresDatabase
from tcc_server.log.schema import replicas
from tcc_server.log.seam import LogUnavailable

SUBJECT = "log"

_NAMES = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
_LOST = "the server acknowledges what a crash of it can lose: decisions too"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look at the database gave."""

    settings: dict[str, str]
    standbys: int
    revision: str | None
    alive: int
    clock: tuple[float, float, float]


async def check_postgres(url: str) -> list[Finding]:
    """Look at a log's database.

    Args:
        url: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
    """
    try:
        database = PostgresDatabase(url)
    except LogUnavailable as error:
        return [problem(SUBJECT, str(error))]
    try:
        seen = await database.transaction(lambda connection: _look(connection, database.name))
    except LogUnavailable as error:
        return [problem(SUBJECT, str(error))]
    finally:
        await database.close()
    return [_schema(seen, database.name), *_settings(seen.settings), *_standbys(seen), judge(*seen.clock)]


def _look(connection: Connection, name: str) -> _Seen:
    connection.execute(text("SET TRANSACTION READ ONLY"))
    settings = {one: str(connection.execute(text(f"SHOW {one}")).scalar()) for one in _NAMES}
    settings["in_recovery"] = str(connection.execute(text("SELECT pg_is_in_recovery()")).scalar())
    settings["read_only"] = str(connection.execute(text("SHOW default_transaction_read_only")).scalar())
    standbys = connection.execute(text("SELECT count(*) FROM pg_stat_replication")).scalar()
    before = time.time()
    now = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar()
    after = time.time()
    revision = revision_of(connection, name)
    alive = 0
    if connection.execute(text("SELECT to_regclass(:name)"), {"name": replicas.name}).scalar() is not None:
        count = f"SELECT count(*) FROM {replicas.name} WHERE expires_at > now()"  # noqa: S608  our own table's name
        alive = int(connection.execute(text(count)).scalar() or 0)
    return _Seen(settings, int(standbys or 0), revision, alive, (before, float(now or 0.0), after))


def _schema(seen: _Seen, name: str) -> Finding:
    try:
        is_behind(seen.revision, name, may_migrate=False)
    except LogUnavailable as error:
        return problem(SUBJECT, str(error))
    running = f"replicas at work on it: {seen.alive}" if seen.alive else "no replica works on it now"
    return ok(SUBJECT, f"database {name} is at revision {seen.revision}, which is this version's; {running}")


def _settings(settings: dict[str, str]) -> list[Finding]:
    if settings["in_recovery"] == "True":
        return [problem(SUBJECT, "the server is a standby, which only reads", "give the URL of the primary")]
    if settings["read_only"] == "on":
        return [
            problem(
                SUBJECT,
                "the database only reads (default_transaction_read_only = on)",
                "ALTER DATABASE or ALTER ROLE ... SET default_transaction_read_only = off",
            )
        ]
    weak = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if settings[name] == "off"]
    if weak:
        return [
            warning(SUBJECT, f"{name} = off: {_LOST}", f"set {name} = on for the log's database and user")
            for name in weak
        ]
    return [
        ok(SUBJECT, f"it keeps what it acknowledges (fsync on, synchronous_commit {settings['synchronous_commit']})")
    ]


def _standbys(seen: _Seen) -> list[Finding]:
    if not seen.standbys:
        return []
    asynchronous = not seen.settings["synchronous_standby_names"]
    if asynchronous or seen.settings["synchronous_commit"] in ("off", "local"):
        return [
            warning(
                SUBJECT,
                f"standbys that follow asynchronously: {seen.standbys}; a failover can lose decisions that were told",
                "name them in synchronous_standby_names, with synchronous_commit = on",
            )
        ]
    return [ok(SUBJECT, f"a commit waits for a standby ({seen.settings['synchronous_standby_names']})")]
