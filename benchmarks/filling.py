"""Fills an embedded log with finished transactions, which look as if they had been run.

A million rows by way of a manager would take minutes. Each row is what `tcc_server.log.codec` makes of such a
transaction; gids are random, as clients' are, and indexes are made anew at the end.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from google.protobuf.message import Message

from services.accounts.v1 import accounts_pb2 as pb
from tcc_server.core.messages import Answer, Write
from tcc_server.core.model import (
    Ask,
    Branch,
    Key,
    Methods,
    Moment,
    OutcomeKind,
    Reservation,
    Settlement,
    State,
    Status,
    Transaction,
)
from tcc_server.log.codec import encode
from tcc_server.log.schema import transactions

_OWNER = "gone"
_SERVICE = "/services.accounts.v1.Accounts/"
_DAY, _TOOK = 86_400.0, 0.01


def fill(log: Path, count: int) -> None:
    """Insert so many confirmed transactions of the last day into a log that nobody has open.

    Args:
        log: a file with the schema in it.
    """
    columns = [column.name for column in transactions.columns]
    marks = ", ".join("?" * len(columns))
    insert = f"INSERT INTO {transactions.name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608  our own names
    with closing(sqlite3.connect(log, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        indexes = database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        database.execute("BEGIN")
        for name, _ in indexes:
            database.execute(f'DROP INDEX "{name}"')
        database.executemany(insert, _rows(columns, count))
        for _, statement in indexes:
            database.execute(statement)
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _rows(columns: list[str], count: int) -> Iterator[list[object]]:
    now = time.time()
    # Encoded once: what tells transactions apart, gid and times, stands in columns of its own.
    answer = Answer(_confirmed(now), (), (), Write.BODY, Moment(0.0, now), answered=1, wake=None)
    row = encode(answer, write_id=bytes(16))
    values: dict[str, object] = {name: getattr(row, name) for name in columns if name not in {"namespace", "gid"}}
    values |= {"namespace": row.key.namespace, "state": row.state.value, "owner": _OWNER}
    dice = random.Random(count)  # noqa: S311  the same rows each time
    for gid in sorted(f"{dice.getrandbits(128):032x}" for _ in range(count)):  # so that the key's index grows in order
        begun_at = now - dice.random() * _DAY
        values |= {"gid": gid, "begun_at": begun_at, "decided_at": begun_at, "finished_at": begun_at + _TOOK}
        yield [values[name] for name in columns]


def _confirmed(begun_at: float) -> Transaction:
    return Transaction(
        key=Key("default", "filled"),
        name="filled",
        interactive=False,
        state=State.CONFIRMED,
        begun_at=begun_at,
        deadline_at=begun_at + 30.0,
        deadline=30.0,
        version=2,
        branches=(
            _done("0", "Debit", pb.DebitRequest(account="bench-0", amount=1), begun_at),
            _done("1", "Credit", pb.CreditRequest(account="bench-0", amount=1), begun_at),
        ),
        decided_at=begun_at,
        decided_text="every branch is reserved",
        finished_at=begun_at + _TOOK,
    )


def _done(step: str, action: str, request: Message, begun_at: float) -> Branch:
    return Branch(
        ask=Ask(
            step=step,
            participant="noop",
            methods=Methods(*(f"{_SERVICE}{phase}{action}" for phase in ("Try", "Confirm", "Cancel"))),
            request=request.SerializeToString(),
            request_hash=bytes(32),
        ),
        reservation=Reservation.RESERVED,
        status=Status(),
        try_attempts=1,
        try_sent_at=begun_at,
        try_answered_at=begun_at,
        settlement=Settlement.DONE,
        outcome=OutcomeKind.DONE,
        attempts=1,
        settled_at=begun_at + _TOOK,
    )
