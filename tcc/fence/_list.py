"""Many visits in one transaction: each has its own verdict, and none undoes another's effect.

The law: verdicts come out of here only once the list was committed, or if there was nothing to commit. Whatever else
happens (a deadlock, a wait that ran out, a commit without an answer) makes all of the list visits that have to be
repeated alone, where the row says what is true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tcc.fence._phase import PhaseTransaction
from tcc.fence._rows import Change, Changes, Rows, change_to, key_of
from tcc.fence._rules import Rule, State
from tcc.fence._seam import (
    FenceBusy,
    FenceUnavailable,
    Listed,
    Record,
    Refusal,
    Result,
    Verdict,
    Visit,
    VisitAlone,
    VisitLater,
    record_after,
    rule_for,
)
from tcc.fence._stepping import Stopped, Turn

if TYPE_CHECKING:
    from tcc.fence._sql import SqlFence

HANDLERS_SHARE: Final = 1.0
"""Seconds that one handler may hold up its list. Then it is stopped and has its whole time to itself, in a transaction
of its own."""

STARTS_WITHIN: Final = 0.5
"""Seconds after which no more handlers of a list start: they go with the next, and what is done is committed."""


class ListRun:
    """One list in one transaction.

    Args:
        fence: whose session the handlers see.
        connection: on which they work.
        rows: the fence's rows there.
        now: unix milliseconds.
    """

    def __init__(self, fence: SqlFence, connection: AsyncConnection, rows: Rows, now: int) -> None:
        self._fence = fence
        self._connection = connection
        self._rows = rows
        self._now = now
        self._changes: Changes = {}
        self._written = False
        self._started = False
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine runs in one
        self._task = task
        self._loop = task.get_loop()
        self._start_by = self._loop.time() + STARTS_WITHIN

    async def make(self, listed: Sequence[Listed]) -> list[Verdict | Exception]:
        """Makes the visits, and commits.

        Args:
            listed: of different branches, in the order of their keys.

        Raises:
            Exception: nothing was committed, or the commit's result is unknown.
        """
        records = await self._rows.find([one.visit for one in listed], self._now)
        results = [await self._visit(one, record) for one, record in zip(listed, records, strict=True)]
        if self._written:
            await self._rows.commit(self._changes)
        return results

    async def _visit(self, one: Listed, record: Record | None) -> Verdict | Exception:
        visit = one.visit
        rule = rule_for(record, visit)
        if rule is Rule.RUN:
            result = await self._run(one, record)
            if isinstance(result, Exception):
                if record is None:
                    self._forget(visit)
                return result
            record = record_after(visit, record, result, self._now / 1000)
            change, values = change_to(visit, record, self._now)
            self._changes.setdefault(change, []).append(values)
            self._written = True
        elif rule is Rule.RECORD:
            record = Record(State.CANCELLED, visit.action, visit.request_hash)
            self._written = True
        elif record is None:
            self._forget(visit)
        return Verdict(rule, record)

    def _forget(self, visit: Visit) -> None:
        self._changes.setdefault(Change.FORGOTTEN, []).append(key_of(visit))

    async def _run(self, one: Listed, record: Record | None) -> Result | Exception:
        if one.dropped:
            return VisitAlone("nobody waits for this visit any more")
        if self._started and self._loop.time() > self._start_by:
            return VisitLater("the list was over before this visit's turn")
        self._started = True
        phase = PhaseTransaction(self._fence, self._connection)
        result: Result | Exception
        try:
            try:
                turn = Turn(phase.run(one.body, record), one.context, self._task)
                result = turn.result if turn.begin() else await self._finish(one, turn)
            except (FenceBusy, FenceUnavailable):
                raise
            except Exception as error:
                result = error
            if phase.used and isinstance(result, Exception | Refusal):
                await phase.undo()
        finally:
            if phase.used:
                await phase.close()
        if phase.used and self._connection.invalidated:
            raise FenceUnavailable("the list's connection broke under a handler")
        return result

    async def _finish(self, one: Listed, turn: Turn[Result]) -> Result | Exception:
        """Goes on with a handler that waits for something: only such a one can be too slow, or dropped."""
        one.handling = turn
        limit = self._loop.call_later(HANDLERS_SHARE, turn.stop)
        try:
            result = await turn.finish()
            if not (one.dropped or turn.cancelling()):  # else it caught its cancellation and went on
                return result
        except Stopped:
            pass
        finally:
            limit.cancel()
            one.handling = None
        if one.dropped:
            return VisitAlone("nobody waits for this visit any more")
        return VisitAlone(f"the handler held its list for {HANDLERS_SHARE:g} s, or cancelled itself")
