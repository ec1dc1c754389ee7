"""The worker: answers the signals of each transaction one after the other, appends, and only then acts.

While an append is under way the transaction's signals wait in its inbox, so nothing is decided on what is not durable.
Different transactions do not wait for each other. Who loses a compare-and-set forgets the transaction, and answers from
the row: what another living replica works on is only watched here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from tcc.tracing import TraceParent, Tracing
from tcc.v1.participant_pb2 import Command
from tcc_server.caller.calling_back import calling_back
from tcc_server.caller.seam import Caller, TryCall, TryReply
from tcc_server.clock import Clock, Ids, Rng
from tcc_server.core.decide import decide
from tcc_server.core.messages import (
    Answer,
    Circumstance,
    DropTries,
    Effect,
    Resumed,
    SendCommand,
    SendTry,
    Signal,
    TimerFired,
    TryAnswered,
)
from tcc_server.core.model import Key, Moment, Status, Transaction
from tcc_server.core.policy import Policy
from tcc_server.courier.seam import Courier
from tcc_server.engine import wire_commands
from tcc_server.engine.appends import Append, Appends
from tcc_server.engine.errors import Draining, EngineError, Rejected, UnknownTransaction, Unreadable, Unsettled
from tcc_server.engine.live import Condition, Live, Lost
from tcc_server.engine.tasks import Tasks
from tcc_server.engine.timers import Timers
from tcc_server.engine.watching import Watching
from tcc_server.log.codec import decode, encode
from tcc_server.log.seam import READER, Log, LogConflict, LogRejected, LogUnavailable, LogUnknown, Row

_log = structlog.get_logger(__name__)

_SETTLE_FIRST, _SETTLE_MAX = 0.05, 1.0
_REVIVE_AFTER = 5.0
_OUT_OF_RANGE = 11
_LAST_WRITES = 1.5
_STILL_OURS = 1.0
_LEASE_LOST = "this manager lost its lease"


@dataclass(frozen=True, slots=True)
class Seams:
    """What the engine stands on; see DESIGN.md for each.

    Attributes:
        bridged: participants without the SDK, whose commands carry the Try's reply.
    """

    log: Log
    caller: Caller
    courier: Courier
    clock: Clock
    ids: Ids
    rng: Rng
    tracing: Tracing = field(default_factory=Tracing)
    bridged: Collection[str] = ()


class Worker:
    """The transactions in work, by key.

    Args:
        replica: this replica's id, for the history.
        payload_limit: bytes of all requests and Try replies of a transaction together.
    """

    def __init__(self, seams: Seams, policy: Policy, *, replica: str, payload_limit: int) -> None:
        self._seams = seams
        self._caller = calling_back(seams.caller)
        self._policy = policy
        self._replica = replica
        self._payload_limit = payload_limit
        self._live: dict[Key, Live] = {}
        self._stirred: list[Live] = []
        self._timers: Timers[Key] = Timers(seams.clock, self._timer_fired)
        self._tasks = Tasks()
        self._appends = Appends(seams.log, self._appended)
        self._settling = Tasks()
        self._watching = Watching(seams.log)
        self._closed = False
        self._abandoned = False
        self._heard: dict[str, float] = {}
        self._heard_now: set[str] = set()
        self.silent: set[str] = set()

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._live.values()))

    def get(self, key: Key) -> Live | None:
        """The transaction in work under that key."""
        return self._live.get(key)

    def begin(self, key: Key, answer: Answer) -> Live:
        """Take up a new transaction: its begin is written, then its Tries leave."""
        live = self._live[key] = Live(key)
        live.writing = True
        self._write(live, answer)
        return live

    async def close(self) -> None:
        """Stop: appends under way end, everything else is left to whoever opens the log next."""
        self._closed = True
        self._timers.close()
        for live in self:
            live.drop_tries()
        await self._tasks.close()
        try:
            async with asyncio.timeout(_LAST_WRITES):
                while self._appends or len(self._settling):
                    await self._appends.drain()
                    await self._settling.drain()
        except TimeoutError:
            _log.error("appends_abandoned", hint="the log does not answer; the next start settles what is in it")
        await self._end(Draining)

    async def abandon(self) -> None:
        """Stop at once: this replica counts as dead, and others work on what it worked on."""
        self._closed = self._abandoned = True
        self._timers.close()
        await self._tasks.close()
        await self._end(lambda key: Unsettled(key, _LEASE_LOST))

    async def _end(self, why: Callable[[Key], EngineError]) -> None:
        self._appends.drop()
        await self._settling.close()
        await self._watching.close()
        for live in self:
            live.end(why(live.key))
        self._live.clear()

    # One signal after the other

    def signal(self, live: Live, signal: Signal) -> None:
        """Put a signal into the transaction's inbox. It is answered in this turn of the loop or when its time comes.

        What comes in one list, the answers of several branches above all, is answered together.
        """
        live.inbox.append(signal)
        if not live.stirred:
            live.stirred = True
            if not self._stirred:
                asyncio.get_running_loop().call_soon(self._answer)
            self._stirred.append(live)

    def _answer(self) -> None:
        """Answer what came in since the last turn of the loop."""
        stirred, self._stirred = iter(self._stirred), []
        self._heard_now.clear()
        try:
            for live in stirred:
                live.stirred = False
                try:
                    self._pump(live)
                except Exception as error:  # a bug at one: the others are still to be answered
                    self._poisoned(live, error)
        finally:
            if left := list(stirred):  # not even that could be said: these are answered in the next turn
                self._stirred[:0] = left
                asyncio.get_running_loop().call_soon(self._answer)

    def _pump(self, live: Live) -> None:
        """Answer what waits in the inbox, up to the first answer that must be written."""
        while live.inbox and not live.writing and live.tx is not None and live.lost is None:
            try:
                answer = decide(live.tx, live.inbox, self.circumstance(), self._policy)
            except Exception as error:
                self._poisoned(live, error, signals=[type(signal).__name__ for signal in live.inbox])
                return
            for _ in range(answer.answered):
                live.inbox.popleft()
            if answer.write:
                live.writing = True
                self._write(live, answer)
                return
            live.tx, live.wake = answer.after, answer.wake
            if answer.effects:
                self._perform(live, answer.effects, answer.at)
        if not live.writing and live.tx is not None and live.lost is None:
            self._timers.set(live.key, live.wake)
            live.tell()

    def _write(self, live: Live, answer: Answer) -> None:
        """Append; what is to be done about it is done once that is over."""
        try:
            row = encode(answer, write_id=self._seams.ids.write_id())
        except Exception as error:
            self._poisoned(live, error)
            return
        self._appends.start(live, answer, row)

    def _appended(self, append: Append) -> None:
        error = append.error
        if isinstance(error, LogUnknown):
            self._settling.start(self._settle(append.live, append.answer, append.row, error))
        else:
            self._verdict(append.live, append.answer, append.row, error)

    async def _settle(self, live: Live, answer: Answer, row: Row, unknown: LogUnknown) -> None:
        error: Exception | None = None
        try:
            await self._append(row, unknown)
        except Exception as raised:
            error = raised
        self._verdict(live, answer, row, error)

    def _verdict(self, live: Live, answer: Answer, row: Row, error: BaseException | None) -> None:
        match error:
            case None:
                try:
                    self._written(live, answer, row)
                except Exception as bug:  # what is durable stands, and is taken up again from there
                    self._poisoned(live, bug)
            case LogConflict():
                self._lose(live, error)
            case LogRejected():
                self._rejected(live, error)
            case _:
                self._poisoned(live, error)

    def _written(self, live: Live, answer: Answer, row: Row) -> None:
        """It is durable: act."""
        if self._live.get(live.key) is not live:
            return  # forgotten meanwhile; whoever took it up reads what was written
        was_decided = live.tx is not None and live.tx.decided_at is not None
        tx = live.tx = answer.after
        live.wake = answer.wake
        live.writing = False
        if tx.decided_at is not None and not was_decided:
            self._trace_decision(tx)
        if live.enlisting:
            for step in [step for step in live.enlisting if tx.find(step) is not None]:
                del live.enlisting[step]
        if answer.effects:
            self._perform(live, answer.effects, self._seams.clock.now())
        if tx.state.is_final:
            self._retire(live)
        else:
            self._pump(live)

    def _trace_decision(self, tx: Transaction) -> None:
        trace = TraceParent(tx.traceparent, tx.tracestate)
        if self._seams.tracing.drops(trace):
            return
        said = {"tcc.gid": tx.key.gid, "tcc.decision": "" if tx.decision is None else tx.decision.value}
        if tx.cancel_reason:
            said["tcc.cancel_reason"] = tx.cancel_reason.name
        self._seams.tracing.happened("tcc decide", trace, said)

    async def _append(self, row: Row, unknown: LogUnknown | None = None) -> None:
        """Append until it is known what became of it. Raises LogConflict, LogRejected; Unsettled once abandoned.

        Args:
            unknown: what was heard of an append of this row so far.
        """
        wait = _SETTLE_FIRST
        while True:
            try:
                if unknown is None:
                    await self._seams.log.append(row)
                    return
            except LogUnknown as error:
                unknown = error
            _log.warning("append_unknown", gid=row.key.gid, version=row.version, error=str(unknown))
            unknown = None
            if self._abandoned:
                raise Unsettled(row.key, _LEASE_LOST)
            # Only a read that shows our write_id settles it; one that does not, proves nothing until the version
            # has moved on. Appending the same row again under the same version is safe either way.
            await asyncio.sleep(wait)
            wait = min(_SETTLE_MAX, wait * 2)
            try:
                found = (await self._seams.log.load([row.key])).get(row.key)
            except LogUnavailable:
                continue
            if found is not None and found.write_id == row.write_id:
                return
            if found is not None and found.version >= row.version:
                raise LogConflict(row.key, found.version)

    # Effects

    def _perform(self, live: Live, effects: Sequence[Effect], at: Moment) -> None:
        """Do what is to be done now that what had to be durable is.

        Tries stay here where the append took so long that the deadline is past: they would only be cancelled.
        """
        commands: list[Command] = []
        tx = live.tx
        assert tx is not None  # noqa: S101  effects come from a transaction
        for effect in effects:
            match effect:
                case SendCommand():
                    branch = tx.branches[effect.position]
                    if branch.unanswered:
                        self.silent.add(branch.ask.participant)
                    commands.append(wire_commands.command(tx, effect.position, effect.attempt, self._seams.bridged))
                case SendTry():
                    if at.mono < tx.deadline:
                        self._try(live, tx, effect, at)
                case DropTries():
                    live.drop_tries()
        if commands:
            self._seams.courier.send(commands)

    def _try(self, live: Live, tx: Transaction, effect: SendTry, sent: Moment) -> None:
        if self._closed:
            return
        ask, attempt = tx.branches[effect.position].ask, effect.attempt
        trace = TraceParent(tx.traceparent, tx.tracestate)
        call = TryCall(live.key, ask, attempt, effect.timeout, tx.deadline_at, trace)
        live.tries[ask.step, attempt] = self._caller.send(call, partial(self._tried, live, ask.step, attempt, sent))

    def _tried(self, live: Live, step: str, attempt: int, sent: Moment, answer: TryReply) -> None:
        live.tries.pop((step, attempt), None)
        status = answer.status
        marked = answer.marked
        if answer.reply and live.held + len(answer.reply) > self._payload_limit:
            message = f"the reply has {len(answer.reply)} bytes, more than the transaction's limit leaves"
            status, marked = Status(_OUT_OF_RANGE, message), False  # it is reserved, so Cancel must be sent
        live.trailers[step] = answer.trailers
        self.signal(
            live,
            TryAnswered(
                step=step,
                attempt=attempt,
                status=status,
                marked=marked,
                reply=b"" if status.code else answer.reply,
                expires_in=answer.expires_in,
                retry_after=answer.retry_after,
                sent=sent,
            ),
        )

    # Finding and ending

    async def find(self, key: Key) -> Live | Transaction:
        """The transaction in work; else as the log has it, if it is final or another living replica works on it.

        What nobody works on is taken up again. Raises UnknownTransaction, Unsettled.
        """
        while True:
            if self._abandoned:
                raise Unsettled(key, _LEASE_LOST)
            live = self._live.get(key)
            if live is not None:
                try:
                    await live.until(lambda tx: True)
                except Lost:
                    continue
                return live
            row = await self.load(key)
            if key in self._live:
                continue
            if row.state.is_final or row.elsewhere:
                return self.read(row)
            if (taken := await self._take_over(row)) is not None:
                return taken

    async def take(self, key: Key) -> tuple[Live | Transaction, bool]:
        """As `find`, but takes over what is undecided from a living replica too; and whether it did."""
        found = await self.find(key)
        if isinstance(found, Live) or found.state.is_final:
            return found, False
        row = await self.load(key)
        if row.elsewhere and row.decided_at is None and key not in self._live:
            taken = await self._take_over(row)
            if taken is not None:
                return taken, True
        return await self.find(key), False

    async def until(self, found: Live | Transaction, condition: Condition) -> Transaction:
        """The transaction once the condition holds or it is final, wherever it is worked on. Raises EngineError."""
        while True:
            if isinstance(found, Live):
                try:
                    return await self._until(found, condition)
                except Lost:
                    found = await self.find(found.key)
            elif found.state.is_final or condition(found):
                return found
            else:
                await self._watching.changed(found.key, found.version)
                found = await self.find(found.key)

    async def _until(self, live: Live, condition: Condition) -> Transaction:
        """As `Live.until`, but notices it when another replica took the transaction over. Raises Lost, EngineError."""
        while _can_move(live) and self._seams.log.shared:
            try:
                if not await self.is_current(live):
                    raise Lost
            except Unsettled:
                pass  # the log does not answer now; the next look will tell
            try:
                async with asyncio.timeout(_STILL_OURS):
                    return await live.until(condition)
            except TimeoutError:
                continue
        return await live.until(condition)

    async def _take_over(self, row: Row) -> Live | None:
        """Make a row this replica's own and work on it; None where somebody else was faster."""
        if row.owner != self._replica:
            mine = replace(
                row, version=row.version + 1, write_id=self._seams.ids.write_id(), body=None, elsewhere=False
            )
            try:
                await self._append(mine)
            except LogConflict:
                return None
            row = replace(row, version=mine.version)
        return self._live.get(row.key) or self.resume(row)

    async def is_current(self, live: Live) -> bool:
        """Whether this replica still is the one that works on it; if not, it forgets the transaction.

        Raises UnknownTransaction, Unsettled.
        """
        if not self._seams.log.shared or live.writing:
            return True
        row = await self.load(live.key)
        if row.owner != self._replica and not live.writing:
            self._forget(live, Lost())
        return self._live.get(live.key) is live

    async def load(self, key: Key) -> Row:
        """The row of a transaction. Raises UnknownTransaction, Unsettled."""
        try:
            rows = await self._seams.log.load([key])
        except LogUnavailable as error:
            raise Unsettled(key, str(error)) from error
        row = rows.get(key)
        if row is None:
            raise UnknownTransaction(key)
        if row.min_reader > READER:
            raise Unsettled(key, "a newer version wrote it; ask a manager of that version")
        return row

    def read(self, row: Row) -> Transaction:
        """The transaction in a row. Raises Unreadable."""
        try:
            return decode(row, self._seams.clock.now())
        except Exception as error:  # whatever damaged bytes can do
            _log.exception("row_unreadable", gid=row.key.gid, hint="the row is damaged: restore the log from a backup")
            raise Unreadable(row.key, type(error).__name__) from error

    def resume(self, row: Row) -> Live:
        """Take up a transaction from its row, which is this replica's own. Raises Unreadable."""
        stale = self._live.get(row.key)
        if stale is not None:  # taken away from this replica without its noticing, and fallen back to it
            self._forget(stale, Lost())
        live = self._live[row.key] = Live(row.key, self.read(row))
        self.signal(live, Resumed())
        return live

    def _retire(self, live: Live) -> None:
        live.tell()
        self._forget(live, Lost())

    def _lose(self, live: Live, conflict: LogConflict) -> None:
        """Somebody else wrote: forget the transaction, perform nothing, answer from the row."""
        self._forget(live, Lost())
        if live.tx is not None:
            self._revive_after(0.0, live.key)  # it may be that nobody works on it now
            _log.warning("compare_and_set_lost", gid=live.key.gid, found=conflict.found)

    def _rejected(self, live: Live, rejected: LogRejected) -> None:
        if live.tx is None:
            self._forget(live, Rejected(live.key, str(rejected)))
            return
        # What was to be written is void, so what is durable stands. The deadline or the next retry tries another way.
        live.enlisting.clear()
        self._give_up(live)
        _log.error("append_rejected", gid=live.key.gid, error=str(rejected))

    def _poisoned(self, live: Live, error: BaseException, **facts: object) -> None:
        """Something failed that never should: begun again from the log, or nobody would wake it any more, and said."""
        self._give_up(live)
        _log.error("transaction_poisoned", gid=live.key.gid, exc_info=error, **facts)

    def _give_up(self, live: Live) -> None:
        """Forget the transaction as it is here, and take it up again from the log after a while.

        Before anything is said about it: saying may fail.
        """
        self._forget(live, Unsettled(live.key, "see the manager's log"))
        self._revive_after(_REVIVE_AFTER, live.key)

    def _revive_after(self, wait: float, key: Key) -> None:
        if not self._closed:  # else whoever opens the log next does
            self._tasks.start(self._revive(key, wait))

    async def _revive(self, key: Key, wait: float) -> None:
        await asyncio.sleep(wait)
        try:
            await self.find(key)
        except UnknownTransaction:
            return
        except EngineError:
            self._revive_after(_REVIVE_AFTER, key)

    def _forget(self, live: Live, why: Exception) -> None:
        if self._live.get(live.key) is live:
            del self._live[live.key]
            self._timers.set(live.key, None)
        live.end(why)

    def _timer_fired(self, key: Key) -> None:
        live = self._live.get(key)
        if live is not None:
            self.signal(live, TimerFired())

    def heard_again(self, participant: str) -> bool:
        """Notes that a participant answered; whether it was silent before, and is seen again now.

        Silent is who left commands unanswered and said nothing at all for an answer timeout. One that is merely slow
        gets nothing sent again for each of its answers.
        """
        if participant in self._heard_now:
            return False  # one list brings many of its outcomes
        self._heard_now.add(participant)
        now = self._seams.clock.now().mono
        before = self._heard.get(participant)
        self._heard[participant] = now
        was_quiet = before is None or now - before > self._policy.answer_timeout
        return was_quiet and participant in self.silent

    def circumstance(self) -> Circumstance:
        """When, by whom and with what dice a signal is answered now."""
        return Circumstance(self._seams.clock.now(), self._seams.rng.uniform(), self._replica)


def _can_move(live: Live) -> bool:
    """Whether another living replica may take it over: who calls about an interactive transaction calls anywhere."""
    return live.tx is not None and live.tx.interactive and live.tx.decision is None
