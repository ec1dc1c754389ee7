"""The SQL of the log on PostgreSQL: one statement a list, each its own transaction.

A list travels as one array a column. So a group of appends is one round trip and one commit, however many rows it has;
what it returns are the rows that it changed. Rows are written in the order of their keys, so that two replicas that
meet on several rows do not wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from tcc_server.core.model import Key
from tcc_server.log.postgres_database import KeptConnection
from tcc_server.log.rules import read_state
from tcc_server.log.seam import READER, LogConflict, Row
from tcc_server.log.sweep import OWNERS, Sweep

_TYPES = {
    "namespace": "varchar",
    "gid": "varchar",
    "version": "int4",
    "state": "varchar",
    "name": "varchar",
    "wake_at": "float8",
    "begun_at": "float8",
    "decided_at": "float8",
    "finished_at": "float8",
    "attention": "bool",
    "min_reader": "int4",
    "write_id": "bytea",
    "progress": "bytea",
    "body": "bytea",
}
_NAMES = ", ".join(_TYPES)
_ARRAYS = ", ".join(f"${at}::{kind}[]" for at, kind in enumerate(_TYPES.values(), 2))
_SET = ", ".join(f"{name} = n.{name}" for name in _TYPES if name not in {"namespace", "gid", "body"})
_COLUMNS = ", ".join(f"t.{name}" for name in (*_TYPES, "owner"))
_LIVES = "EXISTS (SELECT 1 FROM tcc_replica r WHERE r.id = {owner} AND r.expires_at > now())"

_WRITE = f"""
WITH n AS MATERIALIZED (SELECT * FROM unnest({_ARRAYS}) AS n({_NAMES})),
inserted AS (
  INSERT INTO tcc_transaction ({_NAMES}, owner) SELECT {_NAMES}, $1::varchar FROM n WHERE version = 1
  ON CONFLICT DO NOTHING RETURNING namespace, gid
),
updated AS (
  UPDATE tcc_transaction t SET {_SET}, body = coalesce(n.body, t.body), owner = $1::varchar FROM n
  WHERE n.version > 1 AND t.namespace = n.namespace AND t.gid = n.gid AND t.version = n.version - 1
  RETURNING t.namespace, t.gid
)
SELECT namespace, gid FROM inserted UNION ALL SELECT namespace, gid FROM updated
"""  # noqa: S608  our own names

_VERSIONS = """
SELECT t.namespace, t.gid, t.version, t.write_id
FROM unnest($1::varchar[], $2::varchar[]) AS k(namespace, gid)
JOIN tcc_transaction t ON t.namespace = k.namespace AND t.gid = k.gid
"""

_LOAD = f"""
SELECT {_COLUMNS}, t.owner <> $1::varchar AND {_LIVES.format(owner="t.owner")} AS elsewhere
FROM unnest($2::varchar[], $3::varchar[]) AS k(namespace, gid)
JOIN tcc_transaction t ON t.namespace = k.namespace AND t.gid = k.gid
"""  # noqa: S608  our own names

_DEAD = f"""
WITH RECURSIVE {OWNERS}
SELECT owner FROM owners
WHERE owner IS NOT NULL AND owner <> $1::varchar AND NOT {_LIVES.format(owner="owners.owner")}
"""  # noqa: S608  our own names

# What is next is found without a lock, so that of many owners' rows only those are locked that are then taken. Whoever
# else was quicker has passed them too: the place of the last one is returned also where no row was free.
_ADOPT = f"""
WITH next AS MATERIALIZED (
  SELECT o.owner, o.wake_at, o.namespace, o.gid
  FROM unnest($3::varchar[]) AS dead(owner) CROSS JOIN LATERAL (
    SELECT t.owner, t.wake_at, t.namespace, t.gid FROM tcc_transaction t
    WHERE t.owner = dead.owner AND t.wake_at IS NOT NULL AND t.min_reader <= {READER}
      AND (t.wake_at, t.namespace, t.gid) > ($4::float8, $5::varchar, $6::varchar)
    ORDER BY t.wake_at, t.namespace, t.gid LIMIT $7::int4
  ) o
  WHERE NOT {_LIVES.format(owner="dead.owner")}
  ORDER BY o.wake_at, o.namespace, o.gid LIMIT $7::int4
),
last AS (
  SELECT wake_at AS last_wake_at, namespace AS last_namespace, gid AS last_gid, count(*) OVER () AS passed
  FROM next ORDER BY wake_at DESC, namespace DESC, gid DESC LIMIT 1
),
free AS MATERIALIZED (
  SELECT t.namespace, t.gid
  FROM next JOIN tcc_transaction t ON t.namespace = next.namespace AND t.gid = next.gid
  WHERE t.owner = next.owner AND t.wake_at IS NOT NULL AND t.min_reader <= {READER}
  FOR UPDATE OF t SKIP LOCKED
),
taken AS (
  UPDATE tcc_transaction t SET version = t.version + 1, owner = $1::varchar, write_id = $2::bytea
  FROM free WHERE t.namespace = free.namespace AND t.gid = free.gid
  RETURNING {_COLUMNS}
)
SELECT * FROM last LEFT JOIN taken ON true
"""  # noqa: S608  our own names

_ADOPTED = f"""
SELECT {_COLUMNS} FROM tcc_transaction t
WHERE t.owner = $1::varchar AND t.wake_at IS NOT NULL AND t.write_id = ANY($2::bytea[])
"""  # noqa: S608  our own names


async def write(connection: KeptConnection, rows: Sequence[Row], owner: str) -> Sequence[LogConflict | None]:
    """Write rows of different keys by compare-and-set; a verdict for each, None for success."""
    columns = zip(*map(_values, sorted(rows, key=_key)), strict=True)
    changed = await connection.run(_WRITE, owner, *map(list, columns))
    if len(changed) == len(rows):  # as is usual: each row was changed once, or not at all
        return [None] * len(rows)
    written = {Key(found["namespace"], found["gid"]) for found in changed}
    # Read after the fact: what is found there may be later than what was in the way, and is just as much a conflict.
    others = await connection.run(_VERSIONS, *_split([row.key for row in rows if row.key not in written]))
    found = {Key(other["namespace"], other["gid"]): (other["version"], other["write_id"]) for other in others}
    return [None if row.key in written else _verdict(row, *found.get(row.key, (0, b""))) for row in rows]


async def load(connection: AsyncConnection, keys: Collection[Key], reader: str) -> dict[Key, Row]:
    """The rows of those keys that exist, seen by that replica."""
    rows = [_row(found) for found in await _run(connection, _LOAD, reader, *_split(keys))]
    return {row.key: row for row in rows}


async def dead_owners(connection: AsyncConnection, owner: str) -> list[str]:
    """Who owns unfinished rows, is not this replica, and has no living lease."""
    return [found["owner"] for found in await _run(connection, _DEAD, owner)]


async def adopt(
    connection: AsyncConnection, owner: str, mark: bytes, sweep: Sweep, limit: int
) -> tuple[list[Row], Sweep | None]:
    """Take over the next rows of a sweep, up to `limit`, and mark them; earliest wake_at first.

    Rows that others hold locked are passed over, so there may be fewer, or none. Also says where the sweep stands then;
    None at its end.
    """
    found = await _run(connection, _ADOPT, owner, mark, list(sweep.owners), *sweep.after, limit)
    rows = _by_wake([each for each in found if each["version"] is not None])
    if not found or found[0]["passed"] < limit:
        return rows, None
    last = found[0]
    return rows, replace(sweep, after=(last["last_wake_at"], last["last_namespace"], last["last_gid"]))


async def adopted(connection: AsyncConnection, owner: str, marks: Sequence[bytes]) -> list[Row]:
    """The rows that this replica took over under one of these marks, as far as they are untouched since."""
    return _by_wake(await _run(connection, _ADOPTED, owner, list(marks)))


async def _run(connection: AsyncConnection, statement: str, *values: object) -> Sequence[RowMapping]:
    result = await connection.exec_driver_sql(statement, values)
    return result.mappings().all()


def _split(keys: Collection[Key]) -> tuple[list[str], list[str]]:
    return [key.namespace for key in keys], [key.gid for key in keys]


def _by_wake(found: Sequence[RowMapping]) -> list[Row]:
    return sorted((_row(each) for each in found), key=lambda row: (row.wake_at or 0.0, row.key))


def _verdict(row: Row, version: int, write_id: bytes) -> LogConflict | None:
    return None if version == row.version and write_id == row.write_id else LogConflict(row.key, version)


def _key(row: Row) -> Key:
    return row.key


def _values(row: Row) -> tuple[object, ...]:
    return (
        row.key.namespace,
        row.key.gid,
        row.version,
        row.state.value,
        row.name,
        row.wake_at,
        row.begun_at,
        row.decided_at,
        row.finished_at,
        row.attention,
        row.min_reader,
        row.write_id,
        row.progress,
        row.body,
    )


def _row(found: RowMapping) -> Row:
    state, min_reader = read_state(found["state"], found["min_reader"])
    return Row(
        key=Key(found["namespace"], found["gid"]),
        version=found["version"],
        state=state,
        name=found["name"],
        wake_at=found["wake_at"],
        begun_at=found["begun_at"],
        decided_at=found["decided_at"],
        finished_at=found["finished_at"],
        attention=found["attention"],
        write_id=found["write_id"],
        body=found["body"],
        progress=found["progress"],
        min_reader=min_reader,
        owner=found["owner"],
        elsewhere=found.get("elsewhere", False),
    )
