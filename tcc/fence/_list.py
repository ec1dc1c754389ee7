"""Many visits in one transaction: each has its own verdict, and none undoes another's effect.

The law: verdicts come out of here only once the list was committed, or if there was nothing to commit. Whatever else
happens (a deadlock, a wait that ran out, a commit without an answer) makes all of the list visits that have to be
repeated alone, where the row says what is true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
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
"""Seconds after which no more handlers of a list start: they go with the next, and what is done is committed. Handlers
that begin with `SqlFence.first` start before any of them goes on: of those, as many as took so long in the last list.
"""


class ListUndone(Exception):
    """What a handler did cannot be undone without undoing what others of its list did."""


class _Handler:
    """One that has begun, and with which there is more to do.

    Attributes:
        one: whose it is.
        record: the branch's row before.
        phase: in which it works.
        turn: its run.
        result: what it gave or raised; None while it has not ended.
    """

    __slots__ = ("one", "phase", "record", "result", "turn")

    def __init__(self, one: Listed, record: Record | None, phase: PhaseTransaction, turn: Turn[Result]) -> None:
        self.one = one
        self.record = record
        self.phase = phase
        self.turn = turn
        self.result: Result | Exception | None = None

    @property
    def waits(self) -> bool:
        """Whether it waits for others with its statement, and for nothing else."""
        question = self.phase.question
        return question is not None and not question.answer.done() and self.turn.awaits(question.answer)

    @property
    def was_stopped(self) -> bool:
        """Whether it was stopped, or gave up, while it waited for others."""
        return self.phase.question is not None and self.phase.question.answer.cancelled()


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
        self._waiting: list[_Handler] = []
        self._ran = False
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
        try:
            begun = []
            for one, record in zip(listed, records, strict=True):
                each = self._visit(one, record)
                if isinstance(each, _Handler) and not self._waits(each):
                    each = self._verdict(one.visit, record, await self._end(each))
                begun.append(each)
            if self._waiting:
                together, began = len(self._waiting), self._loop.time()
                await self._ask_together()
                results = [await self._resume(each) if isinstance(each, _Handler) else each for each in begun]
                self._fence.pace = (self._loop.time() - began) / together
            else:
                results = [each for each in begun if not isinstance(each, _Handler)]
        except BaseException:
            await self._stop_those_that_wait()
            raise
        if self._written:
            await self._rows.commit(self._changes)
        return results

    def _visit(self, one: Listed, record: Record | None) -> Verdict | Exception | _Handler:
        """Makes a visit; gives its handler where that waits for something, or has used its session."""
        visit = one.visit
        rule = rule_for(record, visit)
        if rule is Rule.RUN:
            if one.dropped:
                return self._verdict(visit, record, VisitAlone("nobody waits for this visit any more"))
            if self._started and (
                self._loop.time() > self._start_by or len(self._waiting) * self._fence.pace > STARTS_WITHIN
            ):
                return self._verdict(visit, record, VisitLater("the list was over before this visit's turn"))
            self._started = True
            phase = PhaseTransaction(self._fence, self._connection)
            phase.may_meet = True
            turn = Turn(phase.run(one.body, record), one.context, self._task)
            result = _until_it_waits(turn)
            if result is None or phase.used or isinstance(result, FenceBusy | FenceUnavailable):
                handler = _Handler(one, record, phase, turn)
                handler.result = result
                return handler
            return self._verdict(visit, record, result)
        if rule is Rule.RECORD:
            record = Record(State.CANCELLED, visit.action, visit.request_hash)
            self._written = True
        elif record is None:
            self._forget(visit)
        return Verdict(rule, record)

    def _verdict(self, visit: Visit, record: Record | None, result: Result | Exception) -> Verdict | Exception:
        """Of a visit whose handler has ended."""
        if isinstance(result, Exception):
            if record is None:
                self._forget(visit)
            return result
        record = record_after(visit, record, result, self._now / 1000)
        change, values = change_to(visit, record, self._now)
        self._changes.setdefault(change, []).append(values)
        self._written = True
        return Verdict(Rule.RUN, record)

    def _forget(self, visit: Visit) -> None:
        self._changes.setdefault(Change.FORGOTTEN, []).append(key_of(visit))

    def _waits(self, handler: _Handler) -> bool:
        """Whether a handler waits for the others of its list, which is then noted."""
        if not handler.waits:
            return False
        self._waiting.append(handler)
        handler.phase.paused = True
        handler.one.handling = handler.turn
        return True

    async def _end(self, handler: _Handler) -> Result | Exception:
        """Brings a handler to its end, and undoes what it did where it is not to stand."""
        phase, result = handler.phase, handler.result
        try:
            if result is None:
                phase.may_meet = False
                if phase.question is not None and not phase.question.answer.done():
                    # Not the handler itself waits for the others, but a task of its that began at once (an eager one).
                    phase.question.answer.set_result(False)
                try:
                    result = await self._finish(handler.one, handler.turn)
                except Exception as error:
                    result = error
            if isinstance(result, FenceBusy | FenceUnavailable):
                raise result
            failed = isinstance(result, Exception | Refusal)
            if phase.question is not None and phase.question.changed and (failed or handler.was_stopped):
                raise ListUndone
            if failed and phase.used:
                await phase.undo()
        finally:
            if phase.used:
                await phase.close()
        if phase.used and self._connection.invalidated:
            raise FenceUnavailable("the list's connection broke under a handler")
        return result

    async def _ask_together(self) -> None:
        """Runs the statements with which handlers wait."""
        asking = [handler.phase.question for handler in self._waiting if not handler.was_stopped]
        questions = [question for question in asking if question is not None]
        rows = await self._rows.share([(each.shareable, each.parameters) for each in questions])
        if rows is not None:
            for question, row in zip(questions, rows, strict=True):
                question.row = row
        self._ran = rows is not None  # else each runs its own, and has its own error

    async def _resume(self, handler: _Handler) -> Verdict | Exception:
        """Goes on with a handler that waited for the others."""
        self._waiting.remove(handler)
        phase = handler.phase
        assert phase.question is not None  # noqa: S101  it waited for that
        phase.paused = False
        handler.one.handling = None
        if not handler.was_stopped:
            phase.question.answer.set_result(self._ran)
            handler.result = _until_it_waits(handler.turn)
        return self._verdict(handler.one.visit, handler.record, await self._end(handler))

    async def _stop_those_that_wait(self) -> None:
        for handler in self._waiting:
            await handler.phase.close()
            handler.turn.stop()
            with suppress(Exception):
                await handler.turn.finish()

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


def _until_it_waits(turn: Turn[Result]) -> Result | Exception | None:
    """Goes on with a handler; gives what it gave or raised, or None where it waits."""
    try:
        return turn.result if turn.go_on() else None
    except asyncio.CancelledError:  # its own: nobody else had a chance
        return VisitAlone("the handler cancelled itself")
    except Exception as error:
        return error
