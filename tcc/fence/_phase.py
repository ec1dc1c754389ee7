"""The part of a database transaction in which one handler works, and the session that the handler sees of it.

The law: nothing that a handler does to its session parts its effect from the fence's row. The session works in a
savepoint, made when it is first used, and only the fence ends it: the handler's `commit()` writes what is pending and
no more. Its `rollback()` undoes its effect, so after one the phase can only fail or refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Executable, NestedTransaction, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from tcc.errors import UsageError
from tcc.fence._rows import check_statement, momentary
from tcc.fence._seam import Body, Record, Refusal, Result
from tcc.fence._shareable import First, Shareable

if TYPE_CHECKING:
    from tcc.fence._sql import SqlFence


class Question:
    """A handler's statement that is to run with those of others.

    Args:
        shareable: the statement.
        parameters: its own.

    Attributes:
        answer: whether it did; cancelled where the handler does not wait for it any more.
        row: what it gave then.
    """

    __slots__ = ("answer", "parameters", "row", "shareable")

    def __init__(self, shareable: Shareable, parameters: Mapping[str, object]) -> None:
        self.shareable = shareable
        self.parameters = parameters
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.row: First = None

    @property
    def changed(self) -> bool:
        """Whether it changed something: no savepoint of the handler's own can undo that."""
        return self.row is not None and self.shareable.writes


class PhaseTransaction:
    """Lives from the fence's decision to run a handler until that handler is done.

    Args:
        fence: whose.
        connection: in whose transaction.

    Attributes:
        may_meet: its first statement may wait for those of others.
        paused: it waits for them, and is not to use the transaction.
        question: that statement.
        used: the handler has asked for its session; where it has not, there is nothing to undo or to close.
    """

    __slots__ = (
        "_connection",
        "_open",
        "_savepoint",
        "_session",
        "fence",
        "may_meet",
        "paused",
        "question",
        "undone",
        "used",
    )

    def __init__(self, fence: SqlFence, connection: AsyncConnection) -> None:
        self.fence = fence
        self.may_meet = False
        self.paused = False
        self.question: Question | None = None
        self.undone = False
        self._connection = connection
        self._session: AsyncSession | None = None
        self.used = False
        self._savepoint: NestedTransaction | None = None
        self._open = True

    async def run(self, body: Body, record: Record | None) -> Result:
        """Runs business code in this phase; what it did stands in the transaction, unless it refuses or raises.

        Raises:
            FenceBusy, FenceUnavailable: the database's state ended it.
            UsageError: it undid its own effect, and gave a reply all the same.
            Exception: its own.
        """
        token = current.set(self)
        try:
            result = await body(record)
            if self._session is not None and not isinstance(result, Refusal):
                await self._keep(self._session)
            return result
        except Exception as error:
            known = momentary(error)
            if known is not None and known is not error:
                raise known from error
            raise
        finally:
            current.reset(token)
            self._open = False

    def session(self) -> AsyncSession:
        """The session, made when it is first asked for.

        Raises:
            UsageError: the phase is over; a task that the handler left behind asks.
        """
        self._check_open()
        if self._session is None:
            self.used = True
            self._session = AsyncSession(sync_session_class=PhaseSession, phase=self)
        return self._session

    async def first(self, statement: Executable, parameters: Mapping[str, object]) -> First:
        """Runs a statement, if it can be with those of the list's other handlers; gives its first row.

        Raises:
            UsageError: the phase is over, or the statement changes something and doesn't say what.
        """
        self._check_open()
        shareable = self.fence.shareables.of(statement, parameters)
        if shareable is not None and self.may_meet and self._session is None:
            self.may_meet = False  # once: after that, this handler works on its own
            question = self.question = Question(shareable, parameters)
            if await question.answer:
                return question.row
        row = (await self.session().execute(statement, parameters)).first()
        return None if row is None else tuple(row)

    def bind(self) -> Connection:
        """The connection for a statement of the session; needs SQLAlchemy's greenlet.

        Raises:
            UsageError: the phase is over.
        """
        self._check_open()
        connection = self._connection.sync_connection
        assert connection is not None  # noqa: S101  it was started before there was a phase
        if not connection.in_transaction():
            connection.begin()  # SQLAlchemy's bookkeeping: the transaction itself is open already
        if self._savepoint is None:
            self._savepoint = connection.begin_nested()
        elif not self._savepoint.is_active:
            self.undone = True
            self._savepoint = connection.begin_nested()
        return connection

    async def undo(self) -> None:
        """Undoes what the handler did, and nothing that was before it."""
        await self.close()
        savepoint = self._savepoint
        if savepoint is not None and savepoint.is_active:
            await self._connection.run_sync(lambda _: savepoint.rollback())

    async def close(self) -> None:
        """Ends the session."""
        self._open = False
        if self._session is not None:
            session, self._session = self._session, None
            if session.sync_session.in_nested_transaction():
                await session.close()
            else:
                session.sync_session.close()  # without a word to the database

    def owns(self, connection: object) -> bool:
        """Whether a handler runs on this very connection now."""
        return self._open and self._connection.sync_connection is connection

    async def _keep(self, own: AsyncSession) -> None:
        """Writes what the session still holds back."""
        session = own.sync_session
        if not session.is_active or session.in_nested_transaction() or holds_back(session):
            await own.commit()
        if self.undone or (self._savepoint is not None and not self._savepoint.is_active):
            raise UsageError(
                "the handler rolled its session back and returned a reply, as if its effect stood: to refuse, raise "
                "tcc.Refused instead of session.rollback(); for a part that may fail, use session.begin_nested()"
            )
        await self.close()

    def _check_open(self) -> None:
        if not self._open:
            raise UsageError(
                "this phase is over and its transaction closed: await your work before the handler returns"
            )
        if self.paused:
            raise UsageError("the handler waits for fence.first(): await that before it does more in its transaction")


class PhaseSession(Session):
    """The session underneath a handler's; it ends nothing but its own bookkeeping.

    Args:
        phase: in which it works.
    """

    def __init__(self, phase: PhaseTransaction, **options: Any) -> None:
        # Joined to the phase's savepoint, commit() leaves it open, rollback() rolls back to it.
        super().__init__(join_transaction_mode="rollback_only", expire_on_commit=False, **options)
        self.phase = phase

    def get_bind(self, *_: Any, **options: Any) -> Connection:
        """The phase's connection, whatever the statement is about."""
        return self.phase.bind()

    def close(self) -> None:
        """As ever. What was not written yet is lost."""
        self.phase.undone |= holds_back(self)
        super().close()

    def reset(self) -> None:
        """As ever. What was not written yet is lost."""
        self.phase.undone |= holds_back(self)
        super().reset()


@event.listens_for(PhaseSession, "after_soft_rollback")
def _note_rollback(session: Session, ended: SessionTransaction) -> None:
    if ended.parent is None and isinstance(session, PhaseSession):
        session.phase.undone = True


def holds_back(session: Session) -> bool:
    """Whether the session has objects that are not written yet."""
    return bool(session.new or session.dirty or session.deleted)


def refuse_to_end(connection: Connection) -> None:
    """Called before SQLAlchemy ends a transaction; one in which a handler works is the fence's to end.

    Raises:
        UsageError: it is one.
    """
    phase = current.get()
    if phase is not None and phase.owns(connection):
        connection.invalidate()  # SQLAlchemy now holds the transaction for ended, the database does not
        raise UsageError("the transaction is the fence's: commit through fence.session, not through its connection")


def refuse_to_end_by_statement(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
    """Called before SQLAlchemy executes a statement.

    Raises:
        UsageError: it would end a transaction in which a handler works.
    """
    phase = current.get()
    if phase is not None and phase.owns(connection):
        check_statement(statement)


current: ContextVar[PhaseTransaction | None] = ContextVar("tcc_phase_transaction", default=None)
