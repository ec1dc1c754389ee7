"""What every log checks and orders alike, so that the one in memory cannot be laxer than the ones on disk.

`problem_with` is the guard before a write: a row that recovery would never find again, or that the database would
refuse in the middle of a group, is stopped here. The rest is paging: the order of a list, and its token.
"""

from __future__ import annotations

import base64
import binascii
import json
import math

from tcc_server.core.model import State
from tcc_server.log.seam import READER, BadToken, Row

MAX_PAYLOAD = 8 * 1024 * 1024
"""Bytes of body and progress that one row may have."""

ADOPTED = bytes(16)
"""The write_id of a row as adoption left it: no append's own, so the old owner does not take the row for its own."""


def size_of(row: Row) -> int:
    """About how many bytes the row takes on its way to the disk."""
    return 256 + len(row.name) + len(row.progress) + (len(row.body) if row.body is not None else 0)


def problem_with(row: Row) -> str | None:
    """Why no log will ever take this row, as a sentence; None if nothing is wrong with it."""
    gid = row.key.gid
    payload = len(row.progress) + (len(row.body) if row.body is not None else 0)
    if payload > MAX_PAYLOAD:
        return f"transaction {gid} has {payload} bytes to store, the limit is {MAX_PAYLOAD}"
    if row.version < 1:
        return f"transaction {gid} has version {row.version}, the first is 1"
    if row.version == 1 and row.body is None:
        return f"transaction {gid} is new and has no body"
    if len(row.write_id) != 16 or row.write_id == ADOPTED:
        return f"transaction {gid} has a write_id that is not 16 bytes of its own"
    if (row.wake_at is None) is not row.state.is_final:
        return f"transaction {gid} is {row.state.value} with wake_at {row.wake_at}: only a final state has none"
    # What is no number makes no number of the sum.
    if not math.isfinite(row.begun_at + (row.wake_at or 0.0) + (row.decided_at or 0.0) + (row.finished_at or 0.0)):
        times = (row.begun_at, row.wake_at, row.decided_at, row.finished_at)
        return f"transaction {gid} has a time that is no number: {times}"
    try:
        f"{row.key.namespace}{gid}{row.name}".encode()
    except UnicodeEncodeError:
        return f"transaction {gid!a} has text that is not valid Unicode"
    return None


def make_token(row: Row) -> str:
    """The token of the page that starts after this row."""
    return base64.urlsafe_b64encode(json.dumps([row.begun_at, row.key.gid]).encode()).decode().rstrip("=")


def read_token(token: str) -> tuple[float, str]:
    """The begun_at and gid of the last row of the page before. Raises BadToken for what `make_token` did not make."""
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        begun_at, gid = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error):
        raise BadToken("the page token is not one that a list gave: start again without one") from None
    if not isinstance(begun_at, float) or not isinstance(gid, str):
        raise BadToken("the page token is not one that a list gave: start again without one")
    return begun_at, gid


def check_page_size(page_size: int) -> None:
    """Raises ValueError unless a page holds at least one row."""
    if page_size < 1:
        raise ValueError(f"page_size is {page_size}: give at least 1")


def read_state(name: str, min_reader: int) -> tuple[State, int]:
    """The state in a row and the format that it needs. A state that this version does not know needs a newer one."""
    try:
        return State(name), min_reader
    except ValueError:
        return State.TRYING, max(min_reader, READER + 1)  # whoever sees the format looks at nothing else
