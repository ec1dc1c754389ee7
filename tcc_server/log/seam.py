"""The Log seam: the manager's durable record, and the contract that every implementation keeps.

One row a transaction. `append` is a compare-and-set on the row's version; everything else reads. A log belongs to one
replica, whose id it writes as `owner` of the rows it appends or adopts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tcc.batching import Answered
from tcc_server.core.model import Key, State

READER = 1
"""The row format that this version reads and writes. Rows with a higher `min_reader` are left alone."""


@dataclass(slots=True)
class Row:
    """A transaction as stored. Nobody changes one; it is not declared frozen because frozen ones are dear to make.

    Attributes:
        version: 1 for a new row, else one more than the stored version that it replaces.
        wake_at: unix seconds at which an owner must look at it again; None once its state is final.
        name, begun_at: the same in every version; a log may write them once.
        begun_at, decided_at, finished_at: unix seconds.
        write_id: 16 random bytes of this append, by which a read recognises it.
        body: None in an append keeps the stored body. None in rows of `list`, never in others that were read.
        owner: set by the log; ignored in an append.
        elsewhere: set by `load`: another replica owns the row, and is alive.
    """

    key: Key
    version: int
    state: State
    name: str
    wake_at: float | None
    begun_at: float
    decided_at: float | None
    finished_at: float | None
    attention: bool
    write_id: bytes
    body: bytes | None
    progress: bytes
    min_reader: int = READER
    owner: str = ""
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows `list` gives; an empty collection or None means all."""

    namespace: str
    states: Collection[State] = ()
    attention: bool | None = None
    name: str = ""
    gids: Collection[str] = ()
    begun_from: float | None = None
    begun_before: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest begin first (gid as tie-break), and where the next page starts; None after the last."""

    rows: Sequence[Row]
    next_token: str | None


class LogError(Exception):
    """Base of what a log raises. LogConflict, LogRejected and LogUnknown speak of one append alone."""


class BadToken(ValueError):
    """The page token is not one that `list` gave."""


class LogConflict(LogError):
    """The compare-and-set was lost: the stored row has another version (`found`; 0 for no row). Nothing was written."""

    def __init__(self, key: Key, found: int) -> None:
        super().__init__(f"transaction {key.gid} is at version {found}")
        self.key = key
        self.found = found


class LogRejected(LogError):
    """The database will never take this row, and says why. Nothing was written."""


class LogUnknown(LogError):
    """Nobody can say whether the row was written: settle it by a read that shows its `write_id`, or append it again."""


class LogUnavailable(LogError):
    """A read failed, or the log cannot be opened; nothing was changed. The message says what to do."""


class Log(Protocol):
    """The seam. Implementations: `tcc_server.log.memory`, `tcc_server.log.sqlite`, `tcc_server.log.postgres`.

    `load` and `list` give rows of newer formats too: look at `min_reader` before reading body and progress.
    """

    @property
    def shared(self) -> bool:
        """Whether other replicas may be working on it: then rows change under one's feet, and owners die."""

    async def open(self) -> None:
        """Connect, check the schema's version, prove the last owner dead. Raises LogUnavailable with what to do."""

    async def close(self) -> None:
        """Finish what was appended, then let go of everything. Idempotent."""

    async def lapsed(self) -> None:
        """Returns once this replica counts as dead: its appends are all unknown from now on, and others take over.

        That is final: drop everything, and open a new log under a new id. Never returns where nobody else could write.
        """

    def append(self, row: Row) -> Awaitable[None]:
        """Write one row; over once it is durable. Best a future: a coroutine costs its caller a task.

        The same append again (same version and write_id) succeeds while nothing was written over it.

        Raises:
            LogConflict, LogRejected, LogUnknown: see there. A cancelled append counts as LogUnknown.
        """

    async def load(self, keys: Collection[Key]) -> dict[Key, Row]:
        """The rows of those keys that exist, with bodies. Raises LogUnavailable."""

    async def list(self, wanted: Filter, page_size: int, token: str | None = None) -> Page:
        """A page of rows by filter, without bodies: a page may hold a thousand rows, and a body a megabyte.

        Raises:
            BadToken: the token is not one that `list` gave.
            LogUnavailable: the read failed.
        """

    async def adopt(self, limit: int) -> Sequence[Row]:
        """Take over up to `limit` unfinished rows of owners that are dead, earliest `wake_at` first.

        Each row given back has its version raised by one, durably, this replica as owner and a write_id of no append:
        whoever still holds it loses its next compare-and-set, and a repeat of its last one. What was taken but never
        reached its caller (cancelled, or the commit's answer lost) is given by the next call. Rows whose `min_reader`
        is above READER are left alone. Empty once there is none left. Raises LogUnavailable.
        """


@runtime_checkable
class TakingVerdicts(Protocol):
    """What a Log has besides that can do without a future for each append, and the turn of the loop that one takes."""

    def write(self, row: Row, verdict: Answered[None]) -> None:
        """As `append`; how it ends is told to `verdict` once, never from within this call.

        A verdict that is `done` before its row is written may keep it from being written.
        """
