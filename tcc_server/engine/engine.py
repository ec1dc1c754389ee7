"""The engine: what clients and participants may ask of this replica's transactions.

Work belongs to the worker; whoever calls here only waits. Cancelling a call stops the waiting, never the work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from tcc.batching import Answered
from tcc.tracing import TraceParent
from tcc.v1.participant_pb2 import Outcome
from tcc_server.core.decide import begin, is_trying
from tcc_server.core.identity import ask_difference, plan_difference
from tcc_server.core.messages import CancelAsked, ConfirmAsked, EnlistAsked, ParticipantSeen
from tcc_server.core.model import Ask, Decision, Key, State, Transaction
from tcc_server.core.policy import Policy
from tcc_server.engine import wire_commands
from tcc_server.engine.adoption import Adoption
from tcc_server.engine.errors import (
    AlreadyDecided,
    Draining,
    GidInUse,
    NotInteractive,
    Overloaded,
    StepInUse,
    TooMuch,
    UnknownTransaction,
    Unreadable,
    Unsettled,
)
from tcc_server.engine.live import Condition, Live, Lost
from tcc_server.engine.worker import Seams, Worker
from tcc_server.log.seam import READER, Filter, Row


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a transaction as a whole.

    Attributes:
        payload: bytes of all requests and Try replies together.
        open_transactions: at most so many are in work here; nothing is begun beyond.
    """

    branches: int = 64
    payload: int = 1024 * 1024
    open_transactions: int = 100_000


def is_decided(tx: Transaction) -> bool:
    """The decision is durable."""
    return tx.decided_at is not None


def is_final(tx: Transaction) -> bool:
    """Every branch is settled."""
    return tx.state.is_final


class Engine:
    """Works on this replica's transactions.

    Args:
        replica: this replica's id, for the history.
    """

    def __init__(
        self, seams: Seams, *, replica: str, policy: Policy | None = None, bounds: Bounds | None = None
    ) -> None:
        self._seams = seams
        self._policy = policy or Policy()
        self._bounds = bounds or Bounds()
        self._worker = Worker(seams, self._policy, replica=replica, payload_limit=self._bounds.payload)
        self._adoption = Adoption(seams.log, self._adopted, seams.rng)
        self._draining = False

    # Life

    async def start(self) -> None:
        """Adopt what a dead owner left unfinished, and go on with it. Raises LogUnavailable."""
        await self._seams.courier.start(self.outcome)
        await self._adoption.start()

    def _adopted(self, row: Row) -> None:
        with suppress(Unreadable):  # the manager's log says so; the others go on
            self._worker.resume(row)

    def drain(self) -> None:
        """Begin nothing new."""
        self._draining = True

    async def close(self) -> None:
        """Stop: appends under way end, everything else is left to whoever opens the log next."""
        self._draining = True
        await self._adoption.close()
        await self._seams.courier.close()
        await self._worker.close()

    async def abandon(self) -> None:
        """Drop everything at once: the log's lease has lapsed, and others go on with what was worked on here."""
        self._draining = True
        await self._adoption.close()
        await self._seams.courier.close()
        await self._worker.abandon()

    @property
    def open_transactions(self) -> int:
        """How many transactions this replica works on."""
        return len(self._worker)

    # What clients ask

    async def execute(
        self, key: Key, name: str, asks: tuple[Ask, ...], timeout: float, trace: tuple[str, str]
    ) -> Transaction:
        """Run a plan, or join the one that runs or ran under the same gid; returns once it is decided.

        Raises:
            GidInUse, Draining, Rejected, Unsettled: see there.
        """
        return await self._begin(key, name, asks, timeout, trace, is_decided)

    def put(
        self,
        key: Key,
        name: str,
        asks: tuple[Ask, ...],
        timeout: float,
        trace: tuple[str, str],
        decided: Answered[Transaction],
    ) -> bool:
        """As `execute` of a plan that is new, without waiting; False, and nothing done, where `execute` must be asked.

        Args:
            decided: hears of the decision or of an EngineError; of Lost where `execute` must be asked after all.
        """
        if self._worker.get(key) is not None or self._draining or self._is_full():
            return False
        answer = begin(key, name, asks, timeout, trace, self._worker.circumstance(), self._policy)
        self._worker.begin(key, answer).wait_for(is_decided, decided)
        return True

    async def begin(self, key: Key, name: str, timeout: float, trace: tuple[str, str]) -> Transaction:
        """Begin an interactive transaction, or find the one of the same gid; returns once it is durable.

        Raises:
            GidInUse, Draining, Rejected, Unsettled: see there.
        """
        return await self._begin(key, name, None, timeout, trace, lambda tx: True)

    async def enlist(self, key: Key, ask: Ask) -> tuple[Transaction, Sequence[tuple[str, str | bytes]]]:
        """Add a branch to an interactive transaction and call its Try, or find the branch of the same step.

        Returns once the Try is answered or given up, or the transaction is decided; with the participant's trailers.

        Raises:
            UnknownTransaction, NotInteractive, StepInUse, AlreadyDecided, TooMuch, Unsettled: see there.
        """
        found, took = await self._worker.take(key)
        while True:
            try:
                return await self._enlist(found, key, ask)
            except Lost:
                found, took = (await self._worker.find(key), took) if took else await self._worker.take(key)

    async def _enlist(
        self, found: Live | Transaction, key: Key, ask: Ask
    ) -> tuple[Transaction, Sequence[tuple[str, str | bytes]]]:
        """As `enlist`, where it is worked on now. Raises Lost if it moves meanwhile."""
        tx = found.tx if isinstance(found, Live) else found
        assert tx is not None  # noqa: S101  find waits for the begin
        if not tx.interactive:
            raise NotInteractive(key)
        step = ask.step
        position = tx.find(step)
        stored = tx.branches[position].ask if position is not None else None
        if isinstance(found, Live) and stored is None:
            stored = found.enlisting.get(step)
        if stored is not None:
            if (difference := ask_difference(stored, ask)) is not None:
                raise StepInUse(key, step, difference)
        elif tx.state is not State.TRYING or tx.confirm_wanted:
            raise _too_late(tx)
        elif not isinstance(found, Live):
            raise Unsettled(key, "another manager took it over just now")
        else:
            self._check_bounds(found, tx, ask)
            found.enlisting[step] = ask
            self._worker.signal(found, EnlistAsked(ask))
        if not isinstance(found, Live):
            return await self._worker.until(found, lambda tx: tx.state is not State.TRYING or _is_tried(tx, step)), ()
        after = await found.until(lambda tx: tx.state is not State.TRYING or _is_tried(tx, step))
        if after.find(step) is None:
            raise _too_late(after)
        return after, found.trailers.get(step, ())

    async def confirm(self, key: Key) -> Transaction:
        """Ask for the Confirm of an interactive transaction; returns once it is decided, either way.

        Raises:
            UnknownTransaction, NotInteractive, Unsettled: see there.
        """
        return await self._decided(key, ConfirmAsked())

    async def cancel(self, key: Key, reason: str) -> Transaction:
        """Ask for the Cancel; returns once it is decided.

        Raises:
            AlreadyDecided: Confirm was decided before.
            UnknownTransaction, Unsettled: see there.
        """
        found = await self._decided(key, CancelAsked(reason))
        if found.decision is not Decision.CANCEL:
            raise AlreadyDecided(found, f"transaction {key.gid} was decided Confirm: it cannot be cancelled any more")
        return found

    async def _decided(self, key: Key, signal: ConfirmAsked | CancelAsked) -> Transaction:
        """The transaction once it is decided, the signal given wherever it is worked on; taken over at most once."""
        found, took = await self._worker.take(key)
        while isinstance(found, Live):
            tx = found.tx
            if isinstance(signal, ConfirmAsked) and tx is not None and not tx.interactive and not is_decided(tx):
                raise NotInteractive(key)
            self._worker.signal(found, signal)
            try:
                return await found.until(is_decided)
            except Lost:
                found, took = (await self._worker.find(key), took) if took else await self._worker.take(key)
        return await self._worker.until(found, is_decided)

    async def get(self, key: Key) -> Transaction:
        """The transaction as it is known now. Raises UnknownTransaction, Unsettled."""
        live = self._worker.get(key)
        # A plan stays where it was begun; an interactive transaction may have been taken over by another replica.
        if (
            live is not None
            and live.tx is not None
            and (not live.tx.interactive or await self._worker.is_current(live))
        ):
            return live.tx
        rows = await self._worker.load(key)
        return self._worker.read(rows)

    def trace_of(self, key: Key) -> TraceParent:
        """The trace context of a transaction that is worked on here; an empty one for any other."""
        live = self._worker.get(key)
        return (
            TraceParent() if live is None or live.tx is None else TraceParent(live.tx.traceparent, live.tx.tracestate)
        )

    async def knows(self, key: Key) -> bool:
        """Whether there is a transaction of that key. Raises Unsettled."""
        try:
            await self.get(key)
        except UnknownTransaction:
            return False
        return True

    async def wait(self, key: Key, condition: Condition) -> Transaction:
        """The transaction once the condition holds. Raises UnknownTransaction, Unsettled."""
        return await self._worker.until(await self._worker.find(key), condition)

    async def watch(self, key: Key, after_version: int) -> AsyncIterator[Transaction]:
        """Each later version, coalesced, until the final one. Raises UnknownTransaction, Unsettled."""
        version = after_version
        while True:
            found = await self._worker.until(await self._worker.find(key), partial(_is_later, version))
            if found.version > version:
                yield found
            if found.state.is_final:
                return
            version = max(version, found.version)

    async def list(self, wanted: Filter, page_size: int, token: str | None) -> tuple[Sequence[Transaction], str | None]:
        """A page of transactions, newest first, without those whose rows cannot be read.

        Raises ValueError for a strange token, LogUnavailable.
        """
        page = await self._seams.log.list(wanted, page_size, token)
        found = []
        for row in page.rows:
            if row.min_reader <= READER:
                with suppress(Unreadable):  # it is in the manager's log
                    found.append(self._worker.read(row))
        return found, page.next_token

    # What participants say

    def outcome(self, outcome: Outcome) -> None:
        """Take an outcome from the courier. One of a transaction that is not worked on here is dropped."""
        live = self._worker.get(Key(outcome.namespace, outcome.gid))
        signal = wire_commands.read_outcome(outcome)
        if live is None or live.tx is None or signal is None:
            return
        position = live.tx.find(outcome.branch)
        if position is None:
            return
        participant = live.tx.branches[position].ask.participant
        self._worker.signal(live, signal)
        if not signal.unreachable and self._worker.heard_again(participant):
            self.seen(participant)

    def seen(self, participant: str) -> None:
        """A participant that was silent is there again: what it did not answer is due within a second."""
        self._worker.silent.discard(participant)
        for live in self._worker:
            tx = live.tx
            if tx is not None and any(b.due is not None and b.ask.participant == participant for b in tx.branches):
                self._worker.signal(live, ParticipantSeen(participant))

    # Beginning, and repeating

    async def _begin(
        self,
        key: Key,
        name: str,
        asks: tuple[Ask, ...] | None,
        timeout: float,
        trace: tuple[str, str],
        condition: Condition,
    ) -> Transaction:
        live = self._worker.get(key)
        if live is None:
            if self._draining or self._is_full():
                return await self._repeated(key, name, asks, condition)
            answer = begin(key, name, asks, timeout, trace, self._worker.circumstance(), self._policy)
            try:
                return await self._worker.begin(key, answer).until(condition)
            except Lost:
                return await self._repeated(key, name, asks, condition)
        return await self._repeated(key, name, asks, condition)

    async def _repeated(self, key: Key, name: str, asks: tuple[Ask, ...] | None, condition: Condition) -> Transaction:
        try:
            found = await self._worker.find(key)
        except UnknownTransaction:
            if self._draining:
                raise Draining(key) from None
            if self._is_full():
                raise Overloaded(key, len(self._worker)) from None
            raise Unsettled(key, "it was being begun") from None
        tx = found.tx if isinstance(found, Live) else found
        assert tx is not None  # noqa: S101  _find waits for the begin
        if (difference := plan_difference(tx, name, asks)) is not None:
            raise GidInUse(key, difference)
        return await self._worker.until(found, condition)

    def _is_full(self) -> bool:
        return len(self._worker) >= self._bounds.open_transactions

    def _check_bounds(self, live: Live, tx: Transaction, ask: Ask) -> None:
        count = len(tx.branches) + len(live.enlisting) + 1
        if count > self._bounds.branches:
            raise TooMuch(tx.key, f"transaction {tx.key.gid} has {self._bounds.branches} branches, which is the limit")
        held = live.held + len(ask.request)
        if held > self._bounds.payload:
            raise TooMuch(
                tx.key,
                f"transaction {tx.key.gid} would hold {held} bytes of requests and replies, "
                f"the limit is {self._bounds.payload}",
            )


def _is_later(version: int, tx: Transaction) -> bool:
    return tx.version > version


def _is_tried(tx: Transaction, step: str) -> bool:
    position = tx.find(step)
    return position is not None and not is_trying(tx.branches[position])


def _too_late(tx: Transaction) -> AlreadyDecided:
    if is_decided(tx):
        return AlreadyDecided(tx, f"transaction {tx.key.gid} is {tx.state.value}: no branch can join any more")
    return AlreadyDecided(tx, f"transaction {tx.key.gid} is being confirmed: no branch can join any more")
