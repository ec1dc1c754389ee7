"""The log's SQL on one synchronous connection, inside a transaction that the caller began and will commit.

Writes are text, and go straight to the driver as lists of tuples: with tens of rows in a list, little else is
paid for a row, and with one, SQLAlchemy's way would cost more than the row. The verdicts come from the count of changed
rows when all of them changed, as is usual, and else from one read of what is there: an append has succeeded if the
stored version and write_id are its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    RowMapping,
    Select,
    bindparam,
    select,
    text,
    true,
    tuple_,
    union_all,
)

from tcc_server.core.model import Key
from tcc_server.log.rules import read_state
from tcc_server.log.schema import transactions
from tcc_server.log.seam import READER, Filter, LogConflict, Row
from tcc_server.log.sweep import OWNERS, Sweep

_KEYS_AT_ONCE = 400
"""Keys in one statement: SQLite's oldest limit is 999 variables."""

_column = transactions.c
_Item = TypeVar("_Item")


# A row's values are taken straight from it, in C: a dictionary a row was a third of what a row costs in Python.
_STAYS = {
    "namespace": "key.namespace",
    "gid": "key.gid",
    "name": "name",
    "begun_at": "begun_at",
}
"""Columns that are written once, and where a row has them. To name them in an update would have SQLite take the row out
of the indexes that have them and put it in again, though nothing changes."""
_CHANGES = {
    "version": "version",
    "state": "state._value_",  # `value` is a call in Python
    "wake_at": "wake_at",
    "decided_at": "decided_at",
    "finished_at": "finished_at",
    "attention": "attention",
    "min_reader": "min_reader",
    "write_id": "write_id",
    "progress": "progress",
    "body": "body",
}
_INSERTED = {**_STAYS, **_CHANGES}
_MATCHED = ("key.namespace", "key.gid", "version")

_INSERT = (
    f"INSERT INTO tcc_transaction (owner, {', '.join(_INSERTED)}) VALUES (?{', ?' * len(_INSERTED)}) "  # noqa: S608  our own names
    "ON CONFLICT DO NOTHING"
)
_SET = ", ".join(f"{name} = coalesce(?, body)" if name == "body" else f"{name} = ?" for name in _CHANGES)
_WHERE = "WHERE namespace = ? AND gid = ? AND version = ? - 1"
_UPDATE = f"UPDATE tcc_transaction SET owner = ?, {_SET} {_WHERE}"  # noqa: S608  our own names
_ADOPT = f"UPDATE tcc_transaction SET owner = ?, version = ?, write_id = ? {_WHERE}"  # noqa: S608  our own names

_inserted = attrgetter(*_INSERTED.values())
_updated = attrgetter(*_CHANGES.values(), *_MATCHED)
_adopted = attrgetter("owner", "version", "write_id", *_MATCHED)

_VERSION = "SELECT version, write_id FROM tcc_transaction WHERE namespace = ? AND gid = ?"


def driver_of(connection: Connection) -> sqlite3.Connection:
    """What the connection stands on."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)  # noqa: S101  the engine's dialect says so
    return driver


def write(database: sqlite3.Connection, rows: Sequence[Row], owner: str) -> Sequence[LogConflict | None]:
    """Write rows of different keys by compare-and-set; a verdict for each, None for success.

    Of a later version, the name and the time of the begin are not written: they are what they were.
    """
    inserts = [(owner, *_inserted(row)) for row in rows if row.version == 1]
    updates = [(owner, *_updated(row)) for row in rows if row.version != 1]
    changed = 0
    if inserts:
        changed += database.executemany(_INSERT, inserts).rowcount
    if updates:
        changed += database.executemany(_UPDATE, updates).rowcount
    if changed == len(rows):  # each statement changes one row or none
        return [None] * len(rows)
    return [_verdict(row, *(database.execute(_VERSION, row.key).fetchone() or (0, b""))) for row in rows]


def load(connection: Connection, keys: Collection[Key]) -> dict[Key, Row]:
    """The rows of those keys that exist."""
    loaded = (_row(found) for found in _by_key(connection, select(transactions), keys))
    return {row.key: row for row in loaded}


def newest(connection: Connection, wanted: Filter, limit: int, after: tuple[float, str] | None) -> list[Row]:
    """Up to `limit` rows by filter, without bodies, newest begin first, after begun_at and gid of the page before."""
    return [_row(found) for found in connection.execute(_newest(wanted, limit, after)).mappings()]


def _newest(wanted: Filter, limit: int, after: tuple[float, str] | None) -> Select[Any] | CompoundSelect[Any]:
    """The query of `newest`, put so that one index finds the rows and gives them in order, whatever else there is.

    The index on the state has this order within each state only. So each state gives its newest, all at one moment, and
    the newest of these are the answer. That costs what the page costs, however many rows there are.
    """
    states = list(dict.fromkeys(state.value for state in wanted.states))
    if wanted.gids or wanted.attention:  # these have an index of their own, and few rows
        return _of(wanted, limit, after, _column.state.concat("").in_(states) if states else true())
    if len(states) < 2:
        return _of(wanted, limit, after, _column.state == states[0] if states else true())
    newest_of_each = (_of(wanted, limit, after, _column.state == state).subquery() for state in states)
    merged = union_all(*(select(each) for each in newest_of_each))
    columns = merged.selected_columns
    return merged.order_by(columns.begun_at.desc(), columns.gid.desc()).limit(limit)


def _of(wanted: Filter, limit: int, after: tuple[float, str] | None, of_states: ColumnElement[bool]) -> Select[Any]:
    """The query of `newest`, with that condition on the state."""
    # With gids the keys find the rows; no index may offer to walk through all of them in the right order.
    begun_at = _column.begun_at + 0.0 if wanted.gids else _column.begun_at
    query = select(*(column for column in _column if column is not _column.body)).where(
        _column.namespace == wanted.namespace, of_states
    )
    if wanted.attention is not None:  # spelled out, not bound: so that the partial index serves it
        marked = _column.attention.is_(true())
        query = query.where(marked if wanted.attention else ~marked)
    if wanted.name:
        query = query.where(_column.name == wanted.name)
    if wanted.gids:
        query = query.where(_column.gid.in_(list(wanted.gids)))
    if wanted.begun_from is not None:
        query = query.where(begun_at >= wanted.begun_from)
    if wanted.begun_before is not None:
        query = query.where(begun_at < wanted.begun_before)
    if after is not None:
        query = query.where(tuple_(begun_at, _column.gid) < after)
    return query.order_by(begun_at.desc(), _column.gid.desc()).limit(limit)


_OWNERS = text(
    f"WITH RECURSIVE {OWNERS} SELECT owner FROM owners WHERE owner IS NOT NULL AND owner <> :me"  # noqa: S608  our own names
)

_ORPHANS = (
    select(_column.wake_at, _column.namespace, _column.gid)
    .where(
        _column.owner == bindparam("owner"),
        _column.wake_at.is_not(None),
        _column.min_reader <= READER,
        tuple_(_column.wake_at, _column.namespace, _column.gid)
        > tuple_(bindparam("wake_at"), bindparam("namespace"), bindparam("gid")),
    )
    .order_by(_column.wake_at, _column.namespace, _column.gid)
    .limit(bindparam("most"))
)


def other_owners(connection: Connection, owner: str) -> list[str]:
    """Who else owns unfinished rows."""
    return list(connection.execute(_OWNERS, {"me": owner}).scalars())


def orphans(connection: Connection, sweep: Sweep, limit: int) -> list[Row]:
    """The next unfinished rows of those owners that this version can read, earliest wake_at first."""
    wake_at, namespace, gid = sweep.after
    values = {"wake_at": wake_at, "namespace": namespace, "gid": gid, "most": limit}
    found = (
        (row.wake_at, row.namespace, row.gid)
        for owner in sweep.owners
        for row in connection.execute(_ORPHANS, {**values, "owner": owner})
    )
    keys = [Key(of_namespace, of_gid) for _, of_namespace, of_gid in nsmallest(limit, found)]
    rows = load(connection, keys)
    return [rows[key] for key in keys]


def take_over(connection: Connection, rows: Sequence[Row]) -> None:
    """Store the version and the owner of rows just read and raised by one."""
    if rows:
        driver_of(connection).executemany(_ADOPT, [_adopted(row) for row in rows])


def _verdict(row: Row, version: int, write_id: bytes) -> LogConflict | None:
    if version == row.version and write_id == row.write_id:
        return None
    return LogConflict(row.key, version)


def _by_key(connection: Connection, query: Select[Any], keys: Collection[Key]) -> Iterator[RowMapping]:
    gids: dict[str, list[str]] = {}
    for key in keys:
        gids.setdefault(key.namespace, []).append(key.gid)
    for namespace, of_namespace in gids.items():
        for chunk in _chunks(of_namespace, _KEYS_AT_ONCE):
            found = query.where(_column.namespace == namespace, _column.gid.in_(chunk))
            yield from connection.execute(found).mappings()


def _chunks(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


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
        body=found.get("body"),
        progress=found["progress"],
        min_reader=min_reader,
        owner=found["owner"],
    )
