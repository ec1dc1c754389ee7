"""The shared log: one PostgreSQL database, any number of replicas.

Appends of concurrent transactions share a statement and its commit (`tcc.batching`), and each row gets its own verdict.
Safety is the compare-and-set on a row's version, nothing else: the lease only says who works on what, so that the rows
of a dead replica find somebody and those of a living one are left in peace.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from tcc.batching import Answered
from tcc_server.core.model import Key
from tcc_server.log import postgres_statements, statements
from tcc_server.log.groups import Groups
from tcc_server.log.lease import Lease
from tcc_server.log.migrate import prepare_postgres
from tcc_server.log.postgres_database import KeptConnection, PostgresDatabase, is_of_one_row, is_undone
from tcc_server.log.rules import check_page_size, make_token, read_token
from tcc_server.log.seam import Filter, LogRejected, LogUnavailable, LogUnknown, Page, Row
from tcc_server.log.sweep import Sweep

_Result = TypeVar("_Result")

_READERS = 4
_ATTEMPTS = 3
_MARKS_KEPT = 100


class PostgresLog:
    """A Log in a PostgreSQL database that other replicas share.

        log = PostgresLog("postgresql://tcc:secret@db/tcc", replica=ids.replica_id())
        await log.open()

    Args:
        url: as `PostgresDatabase`. The schema is made and changed by `tcc migrate`.
        replica: this replica's id, new at each start.
        lease_ttl: seconds after which a replica that stopped renewing its lease counts as dead.
        max_rows: of one commit.
        max_bytes: of one commit.
        auto_migrate: make the schema, or bring it up to date, at `open`.

    Raises:
        LogUnavailable: the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        replica: str,
        lease_ttl: float = 15.0,
        max_rows: int = 512,
        max_bytes: int = 4 * 1024 * 1024,
        auto_migrate: bool = False,
    ) -> None:
        self._database = PostgresDatabase(url)
        self._replica = replica
        self._may_migrate = auto_migrate
        # Each statement is its own transaction: one round trip instead of three.
        self._writer = KeptConnection(self._database.engine(1, isolation_level="AUTOCOMMIT"))
        self._reader = self._database.engine(_READERS, isolation_level="AUTOCOMMIT")
        self._lease = Lease(self._database.engine(1, isolation_level="AUTOCOMMIT"), replica, lease_ttl)
        self._groups = Groups(self._send, max_rows=max_rows, max_bytes=max_bytes)
        self._adopting = asyncio.Lock()
        self._adoption: asyncio.Task[Sequence[Row]] | None = None
        self._marks: deque[bytes] = deque(maxlen=_MARKS_KEPT)
        self._sweep: Sweep | None = None
        self._is_open = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def shared(self) -> bool:
        """Always."""
        return True

    async def open(self) -> None:
        """Connect, check the schema and the server, take a lease. After `close`, make a new log."""
        if self._is_open or self._closing is not None:
            raise LogUnavailable("this log was opened before: make a new one")
        try:
            await prepare_postgres(self._database, may_migrate=self._may_migrate)
            await self._database.check()
            await self._lease.take()
        except LogUnavailable:
            await self.close()
            raise
        except Exception as error:
            await self.close()
            raise LogUnavailable(self._database.explain(error)) from error
        except BaseException:
            await self.close()
            raise
        self._is_open = True
        self._groups.open()

    async def close(self) -> None:
        """Finish what was appended, give the lease back, close the connections. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="log-close")
        await asyncio.shield(self._closing)

    async def lapsed(self) -> None:
        """Returns once the lease has lapsed."""
        await self._lease.lapsed()

    def append(self, row: Row) -> Awaitable[None]:
        """Write one row with the next group."""
        return self._groups.append(row)

    def write(self, row: Row, verdict: Answered[None]) -> None:
        """The same, with a verdict in place of a future."""
        self._groups.write(row, verdict)

    async def load(self, keys: Collection[Key]) -> dict[Key, Row]:
        """The rows of those keys that exist."""
        self._check_open()
        if not keys:
            return {}
        return await self._read(lambda connection: postgres_statements.load(connection, keys, self._replica))

    async def list(self, wanted: Filter, page_size: int, token: str | None = None) -> Page:
        """A page of rows by filter."""
        check_page_size(page_size)
        after = read_token(token) if token is not None else None
        rows = await self._read(lambda connection: connection.run_sync(statements.newest, wanted, page_size + 1, after))
        page = rows[:page_size]
        return Page(page, make_token(page[-1]) if len(rows) > page_size else None)

    async def adopt(self, limit: int) -> Sequence[Row]:
        """Take over unfinished rows of replicas without a living lease."""
        async with self._adopting:
            self._check_open()
            if self._adoption is None:
                self._adoption = asyncio.create_task(self._adopt(limit), name="log-adopt")
            try:
                # Shielded: what is taken over for a caller that goes away is there for the next one.
                rows = await asyncio.shield(self._adoption)
            except Exception:
                self._adoption = None
                raise
            self._adoption = None
            return rows

    async def _send(self, rows: Sequence[Row]) -> Sequence[Exception | None]:
        for _ in range(_ATTEMPTS):
            if not self._lease.is_alive:
                return [LogUnknown("this replica's lease has lapsed") for _ in rows]
            try:
                return await postgres_statements.write(self._writer, rows, self._replica)
            except Exception as error:
                if is_undone(error):
                    failure = error
                    continue
                if is_of_one_row(error):
                    return [self._rejected(rows[0], error)] if len(rows) == 1 else await self._singly(rows)
                return [self._unknown(error) for _ in rows]
        return [self._unknown(failure) for _ in rows]

    async def _singly(self, rows: Sequence[Row]) -> Sequence[Exception | None]:
        """One of them cannot be stored: each on its own, so that it fails alone."""
        return [verdict for row in rows for verdict in await self._send([row])]

    def _unknown(self, error: Exception) -> LogUnknown:
        unknown = LogUnknown(self._database.explain(error))
        unknown.__cause__ = error
        return unknown

    def _rejected(self, row: Row, error: Exception) -> LogRejected:
        rejected = LogRejected(f"transaction {row.key.gid} cannot be stored: {self._database.explain(error)}")
        rejected.__cause__ = error
        return rejected

    async def _adopt(self, limit: int) -> Sequence[Row]:
        """What an earlier adoption took whose answer was lost comes first: its mark tells it."""
        if self._marks:
            marks = list(self._marks)
            lost = await self._read(lambda connection: postgres_statements.adopted(connection, self._replica, marks))
            if lost:
                for mark in {row.write_id for row in lost}:
                    self._marks.remove(mark)
                return lost
        mark = secrets.token_bytes(16)
        self._marks.append(mark)
        rows = await self._read(lambda connection: self._go_on(connection, mark, limit))
        self._marks.remove(mark)
        return rows

    async def _go_on(self, connection: AsyncConnection, mark: bytes, limit: int) -> Sequence[Row]:
        """The next rows of the sweep, and where it ends before there are enough, those of a new one."""
        rows: list[Row] = []
        is_new = False
        while len(rows) < limit:
            if self._sweep is None:
                if is_new:  # from its beginning to its end: there is no more
                    break
                is_new = True
                if not (dead := await postgres_statements.dead_owners(connection, self._replica)):
                    break
                self._sweep = Sweep(dead)
            taken, self._sweep = await postgres_statements.adopt(
                connection, self._replica, mark, self._sweep, limit - len(rows)
            )
            rows += taken
        return rows

    async def _read(self, query: Callable[[AsyncConnection], Awaitable[_Result]]) -> _Result:
        self._check_open()
        try:
            async with self._reader.connect() as connection:
                try:
                    return await query(connection)
                except BaseException:
                    await connection.invalidate()
                    raise
        except Exception as error:
            raise LogUnavailable(self._database.explain(error)) from error

    def _check_open(self) -> None:
        if self._closing is not None:
            raise LogUnavailable("the log is closed")
        if not self._is_open:
            raise LogUnavailable("the log is not open")

    async def _close(self) -> None:
        await self._groups.close()
        await self._writer.close()
        if self._adoption is not None:
            await asyncio.wait({self._adoption})
        await self._lease.give_back()
        await self._database.close()
