"""Rows to write in tests, with everything that a test does not care about filled in."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from tcc_server.core.model import Key, State
from tcc_server.log.seam import Row


def new_row(gid: str = "t-1", *, namespace: str = "default", **fields: Any) -> Row:
    """The first row of a transaction that is trying."""
    row = Row(
        key=Key(namespace, gid),
        version=1,
        state=State.TRYING,
        name="transfer",
        wake_at=1_000.0,
        begun_at=900.0,
        decided_at=None,
        finished_at=None,
        attention=False,
        write_id=secrets.token_bytes(16),
        body=b"the plan",
        progress=b"begun",
    )
    return replace(row, **fields)


def next_row(row: Row, **fields: Any) -> Row:
    """The row after this one: one version on, another write_id, the body kept."""
    return replace(row, **{"version": row.version + 1, "write_id": secrets.token_bytes(16), "body": None, **fields})


def finished(row: Row, **fields: Any) -> Row:
    """The row that finishes this one."""
    return next_row(
        row, **{"state": State.CONFIRMED, "wake_at": None, "decided_at": 950.0, "finished_at": 960.0, **fields}
    )
