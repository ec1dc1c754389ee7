"""The database transaction of the phase that is being worked on, and the session that handlers see of it.

The law: nothing that a handler does to its session parts its effect from the fence's row. `commit()` and `rollback()`
end a savepoint; the transaction itself is the fence's.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tcc.errors import UsageError

if TYPE_CHECKING:
    from tcc.fence._sql import SqlFence


class PhaseTransaction:
    """Lives from the fence's decision to run the handler until the handler is done."""

    __slots__ = ("_connection", "_open", "_session", "fence")

    def __init__(self, fence: SqlFence, connection: AsyncConnection) -> None:
        self.fence = fence
        self._connection = connection
        self._session: AsyncSession | None = None
        self._open = True

    def session(self) -> AsyncSession:
        """The session, made when it is first asked for.

        Raises:
            UsageError: the phase is over; a task that the handler left behind asks.
        """
        if not self._open:
            raise UsageError(
                "this phase is over and its transaction closed: await your work before the handler returns"
            )
        if self._session is None:
            self._session = AsyncSession(
                bind=self._connection, join_transaction_mode="create_savepoint", expire_on_commit=False
            )
        return self._session

    async def finish(self) -> None:
        """Writes what the session still holds back."""
        self._open = False
        if self._session is not None:
            await self._session.commit()

    async def close(self) -> None:
        """Ends the session."""
        self._open = False
        if self._session is not None:
            await self._session.close()

    def owns(self, connection: object) -> bool:
        """Whether a handler runs on this very connection now."""
        return self._open and self._connection.sync_connection is connection


current: ContextVar[PhaseTransaction | None] = ContextVar("tcc_phase_transaction", default=None)
