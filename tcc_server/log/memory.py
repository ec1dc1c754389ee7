"""A log in memory, for tests, simulations and the in-process manager: the whole contract, for the life of a process.

Several logs may share one MemoryStore, as replicas share a database: a second log on the store of a closed one stands
for a restart, and `MemoryStore.expire` for the death of a replica that could not close.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from tcc_server.core.model import Key
from tcc_server.log.rules import ADOPTED, check_page_size, make_token, problem_with, read_token
from tcc_server.log.seam import READER, Filter, LogConflict, LogRejected, LogUnavailable, LogUnknown, Page, Row


@dataclass(slots=True)
class MemoryStore:
    """What outlives a MemoryLog: the rows, and the replicas whose lease is alive, each with what lapses with it."""

    rows: dict[Key, Row] = field(default_factory=dict)
    live: dict[str, asyncio.Event] = field(default_factory=dict)

    def expire(self, replica: str) -> None:
        """Let a replica's lease lapse, as if its process had died: its rows can be adopted from now on."""
        lapsed = self.live.pop(replica, None)
        if lapsed is not None:
            lapsed.set()


class MemoryLog:
    """A Log over a MemoryStore.

    Args:
        store: shared with other logs; a new one if None.
        replica: this replica's id, different for each log on one store.
    """

    def __init__(self, store: MemoryStore | None = None, *, replica: str) -> None:
        self._shared = store is not None
        self.store = store if store is not None else MemoryStore()
        self._replica = replica
        self._is_open = False
        self._writing = 0
        self._lapsed = asyncio.Event()

    @property
    def shared(self) -> bool:
        """Where it was given a store, which others may have too."""
        return self._shared

    async def open(self) -> None:
        """Take a lease in the store."""
        self.store.live[self._replica] = self._lapsed
        self._is_open = True

    async def lapsed(self) -> None:
        """Returns once somebody let the lease lapse."""
        await self._lapsed.wait()

    async def close(self) -> None:
        """Finish what was appended, then give the lease back."""
        self._is_open = False
        while self._writing:  # noqa: ASYNC110  each takes one turn of the loop
            await asyncio.sleep(0)
        self.store.live.pop(self._replica, None)

    async def append(self, row: Row) -> None:
        """Write one row."""
        if (problem := problem_with(row)) is not None:
            raise LogRejected(problem)
        if not self._is_open:
            raise LogUnknown("the log is closed")
        self._writing += 1
        try:
            await asyncio.sleep(0)  # others run between an append's call and its effect, as they do on a disk
            if self._lapsed.is_set():
                raise LogUnknown("this replica's lease has lapsed")
            self._write(row)
        finally:
            self._writing -= 1

    def _write(self, row: Row) -> None:
        stored = self.store.rows.get(row.key)
        found = stored.version if stored is not None else 0
        if found == row.version and stored is not None and stored.write_id == row.write_id:
            return
        if found != row.version - 1:
            raise LogConflict(row.key, found)
        body = row.body if row.body is not None or stored is None else stored.body
        self.store.rows[row.key] = replace(row, body=body, owner=self._replica, elsewhere=False)

    async def load(self, keys: Collection[Key]) -> dict[Key, Row]:
        """The rows of those keys that exist."""
        await self._reading()
        found = (self.store.rows[key] for key in keys if key in self.store.rows)
        return {row.key: replace(row, elsewhere=self._is_elsewhere(row)) for row in found}

    async def list(self, wanted: Filter, page_size: int, token: str | None = None) -> Page:
        """A page of rows by filter."""
        check_page_size(page_size)
        after = read_token(token) if token is not None else None
        await self._reading()
        rows = [
            row
            for row in self.store.rows.values()
            if _is_wanted(wanted, row) and (after is None or (row.begun_at, row.key.gid) < after)
        ]
        rows.sort(key=lambda row: (row.begun_at, row.key.gid), reverse=True)
        page = [replace(row, body=None) for row in rows[:page_size]]
        return Page(page, make_token(page[-1]) if len(rows) > page_size else None)

    async def adopt(self, limit: int) -> Sequence[Row]:
        """Take over unfinished rows whose owner's lease is gone."""
        await self._reading()
        orphans = [
            (row.wake_at, row.key, row)
            for row in self.store.rows.values()
            if row.wake_at is not None and row.owner not in self.store.live and row.min_reader <= READER
        ]
        orphans.sort(key=lambda orphan: orphan[:2])
        adopted = [
            replace(row, version=row.version + 1, owner=self._replica, write_id=ADOPTED)
            for _, _, row in orphans[:limit]
        ]
        self.store.rows.update((row.key, row) for row in adopted)
        return adopted

    def _is_elsewhere(self, row: Row) -> bool:
        return row.owner != self._replica and row.owner in self.store.live

    async def _reading(self) -> None:
        await asyncio.sleep(0)
        if not self._is_open:
            raise LogUnavailable("the log is closed")


def _is_wanted(wanted: Filter, row: Row) -> bool:
    return (
        row.key.namespace == wanted.namespace
        and (not wanted.states or row.state in wanted.states)
        and (wanted.attention is None or row.attention is wanted.attention)
        and (not wanted.name or row.name == wanted.name)
        and (not wanted.gids or row.key.gid in wanted.gids)
        and (wanted.begun_from is None or row.begun_at >= wanted.begun_from)
        and (wanted.begun_before is None or row.begun_at < wanted.begun_before)
    )
