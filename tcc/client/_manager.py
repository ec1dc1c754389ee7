"""`tcc.Manager`: a client's connection to the TCC manager.

The law: the id of a transaction is made once, before anything is sent, and every repeat carries it. So a reply that
was lost is asked for again; it is never taken for a failure and never turned into a cancel.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import grpc
import grpc.aio
from opentelemetry.trace import TracerProvider

from tcc.client import _plan
from tcc.client._executed import Executed
from tcc.client._interactive import Transaction
from tcc.client._limits import check_size, check_timeout
from tcc.client._line import Line
from tcc.client._repeat import Pace
from tcc.client._transport import Transport
from tcc.client._views import DECIDED, State, TransactionView, Wait, wire_states, wire_wait
from tcc.client._watch import watch
from tcc.errors import TransactionMixed, UsageError
from tcc.ids import new_gid, problem_with_id
from tcc.tracing import Tracing
from tcc.v1 import manager_pb2, transaction_pb2

R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")
R5 = TypeVar("R5")
R6 = TypeVar("R6")
R7 = TypeVar("R7")
R8 = TypeVar("R8")

_Call = grpc.aio.UnaryUnaryCall

READ_TIMEOUT = 10.0
"""Seconds within which a call that only reads, or that cancels by gid, is answered, if nothing else is said."""


class Manager:
    """A client's connection to the TCC manager. Connects at the first call; belongs to one event loop.

        async with tcc.Manager("localhost:7070") as manager:
            bank = AccountsStub(tcc.plan)
            done = await manager.execute(bank.TryDebit(debit), bank.TryCredit(credit), name="transfer")

    Args:
        target: the manager's address as gRPC takes it, "host:port".
        credentials: for TLS; None: plain text.
        options: gRPC channel options, stronger than the SDK's own.
        channel: a channel to use in place of all that; closing the Manager leaves it open.
        tracer_provider: OpenTelemetry's; None: the process's own.
        connect_timeout: seconds that a call waits for a connection before it gives up with nothing sent.
        margin: seconds beyond a transaction's timeout that its answer is waited for.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
        channel: grpc.aio.Channel | None = None,
        tracer_provider: TracerProvider | None = None,
        connect_timeout: float = 10.0,
        margin: float = 2.0,
    ) -> None:
        if (target is None) == (channel is None):
            raise UsageError("give a Manager either the manager's address or a channel")
        self._target = target
        self._credentials = credentials
        self._options = options
        self._channel = channel
        self._tracing = Tracing(tracer_provider)
        self._connect_timeout = connect_timeout
        self._margin = margin
        self._line: Line | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        self._open_line()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Finishes Cancels under way and closes the connection. What still waits for an answer gets OutcomeUnknown."""
        self._closed = True
        if self._line is not None:
            await self._line.close()

    def _open_line(self) -> Line:
        if self._line is None:
            if self._closed:
                raise UsageError("this Manager is closed")
            # Not earlier: a gRPC channel binds itself to the event loop that runs when it is made.
            transport = Transport(self._target, self._credentials, self._options, self._channel, self._tracing)
            self._line = Line(transport, self._connect_timeout, self._margin, Pace())
        return self._line

    @overload
    async def execute(
        self, c1: _Call[Any, R1], /, *, name: str = ..., gid: str | None = ..., timeout: float = ..., wait: Wait = ...
    ) -> Executed[tuple[R1]]: ...
    @overload
    async def execute(
        self,
        c1: _Call[Any, R1],
        c2: _Call[Any, R2],
        /,
        *,
        name: str = ...,
        gid: str | None = ...,
        timeout: float = ...,
        wait: Wait = ...,
    ) -> Executed[tuple[R1, R2]]: ...
    @overload
    async def execute(
        self,
        c1: _Call[Any, R1],
        c2: _Call[Any, R2],
        c3: _Call[Any, R3],
        /,
        *,
        name: str = ...,
        gid: str | None = ...,
        timeout: float = ...,
        wait: Wait = ...,
    ) -> Executed[tuple[R1, R2, R3]]: ...
    @overload
    async def execute(
        self,
        c1: _Call[Any, R1],
        c2: _Call[Any, R2],
        c3: _Call[Any, R3],
        c4: _Call[Any, R4],
        /,
        *,
        name: str = ...,
        gid: str | None = ...,
        timeout: float = ...,
        wait: Wait = ...,
    ) -> Executed[tuple[R1, R2, R3, R4]]: ...
    @overload
    async def execute(
        self,
        c1: _Call[Any, R1],
        c2: _Call[Any, R2],
        c3: _Call[Any, R3],
        c4: _Call[Any, R4],
        c5: _Call[Any, R5],
        /,
        *,
        name: str = ...,
        gid: str | None = ...,
        timeout: float = ...,
        wait: Wait = ...,
    ) -> Executed[tuple[R1, R2, R3, R4, R5]]: ...
    @overload
    async def execute(
        self,
        c1: _Call[Any, R1],
        c2: _Call[Any, R2],
        c3: _Call[Any, R3],
        c4: _Call[Any, R4],
        c5: _Call[Any, R5],
        c6: _Call[Any, R6],
        /,
        *,
        name: str = ...,
        gid: str | None = ...,
        timeout: float = ...,
        wait: Wait = ...,
    ) -> Executed[tuple[R1, R2, R3, R4, R5, R6]]: ...
    @overload
    async def execute(
        self,
        c1: _Call[Any, R1],
        c2: _Call[Any, R2],
        c3: _Call[Any, R3],
        c4: _Call[Any, R4],
        c5: _Call[Any, R5],
        c6: _Call[Any, R6],
        c7: _Call[Any, R7],
        /,
        *,
        name: str = ...,
        gid: str | None = ...,
        timeout: float = ...,
        wait: Wait = ...,
    ) -> Executed[tuple[R1, R2, R3, R4, R5, R6, R7]]: ...
    @overload
    async def execute(
        self,
        c1: _Call[Any, R1],
        c2: _Call[Any, R2],
        c3: _Call[Any, R3],
        c4: _Call[Any, R4],
        c5: _Call[Any, R5],
        c6: _Call[Any, R6],
        c7: _Call[Any, R7],
        c8: _Call[Any, R8],
        /,
        *,
        name: str = ...,
        gid: str | None = ...,
        timeout: float = ...,
        wait: Wait = ...,
    ) -> Executed[tuple[R1, R2, R3, R4, R5, R6, R7, R8]]: ...
    @overload
    async def execute(
        self, *calls: _Call[Any, Any], name: str = ..., gid: str | None = ..., timeout: float = ..., wait: Wait = ...
    ) -> Executed[tuple[Any, ...]]: ...
    async def execute(
        self,
        *calls: _Call[Any, Any],
        name: str = "",
        gid: str | None = None,
        timeout: float = 30.0,
        wait: Wait = DECIDED,
    ) -> Executed[Any]:
        """Carries out planned calls together, or none of them.

        A reply that is lost is asked for again, with the same gid, until the time is over. Cancelling this coroutine
        only stops the waiting. The time begins with the first attempt: up to `connect_timeout` may go before it.

        Args:
            calls: what a stub on `tcc.plan` returned for each branch; executed again only with the same gid.
            name: for lists and traces, at most 128 characters.
            gid: the transaction's id, made here if not given. Give one of your own, and keep it, if you must be able
                to ask again after a crash of this process.
            timeout: seconds after which the manager cancels the transaction unless it is decided.
            wait: `tcc.DECIDED` or `tcc.COMPLETED`.

        Returns:
            The confirmed transaction and its typed replies.

        Raises:
            TransactionCancelled: nothing of it will stay; carries the refusals.
            OutcomeUnknown: no answer in time; repeat with the same calls and gid, or look at `get(gid)`.
            ManagerUnavailable: nothing was begun.
            GidReused: the gid names a transaction with other content.
            TransactionMixed: a participant broke its promise.
            ManagerError: the manager refused the plan.
            UsageError: the calls are not a plan.
        """
        _plan.take(calls)
        check_timeout(timeout)
        gid = _checked(gid)
        planned = _plan.claim(calls, gid)
        request = _plan.serialised(gid, name, planned, timeout, wait)
        check_size(len(request), gid)
        line = self._open_line()
        response = await line.write(gid, partial(line.transport.execute, gid), request, timeout + line.margin)
        if response.transaction.state == transaction_pb2.STATE_MIXED:
            raise TransactionMixed(gid)
        return Executed(response.transaction, planned)

    def transaction(
        self, name: str = "", *, gid: str | None = None, timeout: float = 30.0, wait: Wait = DECIDED
    ) -> Transaction:
        """An interactive transaction: reserves call by call, and is confirmed by a clean exit.

            async with manager.transaction("transfer") as tx:
                bank = AccountsStub(tx.channel)
                reply = await bank.TryDebit(debit)
                await bank.TryCredit(CreditRequest(account="b", reference=reply.reservation_id))

        Args:
            name: for lists and traces, at most 128 characters.
            gid: the transaction's id, made here if not given.
            timeout: seconds after which the manager cancels the transaction unless it is confirmed.
            wait: what the exit waits for, `tcc.DECIDED` or `tcc.COMPLETED`.

        Raises:
            UsageError: the gid or the timeout cannot be. What entering and leaving raise: see `tcc.Transaction`.
        """
        check_timeout(timeout)
        return Transaction(self._open_line(), name, _checked(gid), timeout, wait)

    async def get(self, gid: str, *, with_payloads: bool = False, timeout: float = READ_TIMEOUT) -> TransactionView:
        """One transaction.

        Args:
            gid: its id.
            with_payloads: include the Tries' replies as bytes.
            timeout: seconds.

        Raises:
            ManagerError: NOT_FOUND for an unknown gid.
            ManagerUnavailable: no answer in time.
        """
        line = self._open_line()
        request = manager_pb2.GetRequest(gid=gid, with_payloads=with_payloads)
        return TransactionView.of((await line.read(line.transport.get, request, timeout)).transaction)

    def watch(
        self, gid: str, *, after_version: int = 0, timeout: float = 30.0
    ) -> AsyncGenerator[TransactionView, None]:
        """One transaction's states from now until it is final; states that follow each other quickly may be missed.

        A stream that breaks is resumed where it broke.

        Args:
            gid: its id.
            after_version: only states of a later version.
            timeout: seconds that the manager may be away before this gives up.

        Raises:
            ManagerError: NOT_FOUND for an unknown gid.
            ManagerUnavailable: the manager was away for longer than `timeout`.
        """
        return watch(self._open_line(), gid, after_version, timeout)

    async def wait(self, gid: str, *, timeout: float = 30.0) -> TransactionView:
        """Waits until every branch of a transaction has answered, however long that takes.

        Args:
            gid: its id.
            timeout: seconds that the manager may be away before this gives up.

        Returns:
            The transaction in its final state: CONFIRMED, CANCELLED or MIXED.

        Raises:
            ManagerError: NOT_FOUND for an unknown gid.
            ManagerUnavailable: the manager was away for longer than `timeout`.
        """
        async with aclosing(self.watch(gid, timeout=timeout)) as states:
            async for view in states:
                if view.state.is_final:
                    return view
        return await self.get(gid)

    async def list(
        self,
        *,
        states: Iterable[State] = (),
        attention: bool | None = None,
        name: str = "",
        gids: Iterable[str] = (),
        begun_from: datetime | None = None,
        begun_before: datetime | None = None,
        page_size: int = 100,
        timeout: float = READ_TIMEOUT,
    ) -> AsyncGenerator[TransactionView, None]:
        """Transactions by filter, newest first, without branches and history; page by page as they are asked for.

        Args:
            states: only these; none: all.
            attention: only those with or without; None: both.
            name: only this name; "": all.
            gids: only these, at most 1000; none: all.
            begun_from: only those that began then or later; with a time zone.
            begun_before: only those that began before.
            page_size: how many to ask for at a time, at most 1000.
            timeout: seconds for each page.

        Raises:
            ManagerError: the manager refused a filter.
            ManagerUnavailable: no answer in time.
        """
        line = self._open_line()
        request = manager_pb2.ListRequest(name=name, gids=gids, page_size=page_size)
        request.states.extend(wire_states(states))
        if attention is not None:
            request.attention = attention
        if begun_from is not None:
            request.begun_from.FromDatetime(begun_from)
        if begun_before is not None:
            request.begun_before.FromDatetime(begun_before)
        while True:
            page = await line.read(line.transport.list, request, timeout)
            for message in page.transactions:
                yield TransactionView.of(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def cancel(
        self, gid: str, reason: str = "", *, wait: Wait = DECIDED, timeout: float = READ_TIMEOUT
    ) -> TransactionView:
        """Decides Cancel for an interactive transaction, whoever began it. Cancelling twice is no error.

        Args:
            gid: its id.
            reason: for its history; at most 256 characters are kept.
            wait: `tcc.DECIDED` or `tcc.COMPLETED`.
            timeout: seconds.

        Raises:
            ManagerError: FAILED_PRECONDITION where Confirm was decided before, NOT_FOUND for an unknown gid.
            OutcomeUnknown: no answer in time; repeat it.
            ManagerUnavailable: nothing was sent.
        """
        line = self._open_line()
        request = manager_pb2.CancelRequest(gid=gid, reason=reason, wait=wire_wait(wait))
        return TransactionView.of((await line.write(gid, line.transport.cancel, request, timeout)).transaction)

    async def confirm(self, gid: str, *, wait: Wait = DECIDED, timeout: float = 30.0) -> TransactionView:
        """Asks again for the Confirm of an interactive transaction whose exit gave OutcomeUnknown.

        Args:
            gid: its id.
            wait: `tcc.DECIDED` or `tcc.COMPLETED`.
            timeout: seconds.

        Raises:
            TransactionCancelled: it was decided Cancel.
            TransactionMixed: a participant broke its promise.
            ManagerError: NOT_FOUND for an unknown gid.
            OutcomeUnknown: no answer in time; repeat it.
            ManagerUnavailable: nothing was sent.
        """
        line = self._open_line()
        request = manager_pb2.ConfirmRequest(gid=gid, wait=wire_wait(wait))
        message = (await line.write(gid, line.transport.confirm, request, timeout)).transaction
        if message.state == transaction_pb2.STATE_MIXED:
            raise TransactionMixed(gid)
        return TransactionView.of(message)


def _checked(gid: str | None) -> str:
    if gid is None:
        return new_gid()
    if problem := problem_with_id("gid", gid):
        raise UsageError(problem)
    return gid
