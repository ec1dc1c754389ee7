"""A manager that does as it is told: for tests of what a client makes of every kind of answer.

Left alone it confirms everything and keeps what it was asked by gid, as the real one does. A script puts other answers
before that: each is used once, for the next call of its method.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Never

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import status_pb2

from services.accounts.v1 import accounts_pb2
from tcc import wire
from tcc.streams import ListServer
from tcc.v1 import manager_pb2, manager_pb2_grpc, transaction_pb2

Context = grpc.aio.ServicerContext[Any, Any]
Answer = Callable[[Any, Context], Awaitable[Any]]

REPLIES = {
    "TryDebit": accounts_pb2.DebitReply(reservation_id="held", available=70).SerializeToString(),
    "TryCredit": accounts_pb2.CreditReply(reservation_id="announced").SerializeToString(),
}


@dataclass(frozen=True)
class Asked:
    """One call as it came in."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    time_left: float


class FakeManager(manager_pb2_grpc.TransactionManagerServicer):
    """Args:
    streams: takes plans and calls in lists too.
    """

    def __init__(self, *, streams: bool = True) -> None:
        self._streams = streams
        self.asked: list[Asked] = []
        self.arrivals = asyncio.Condition()
        self.transactions: dict[str, transaction_pb2.Transaction] = {}
        self._plans: dict[str, bytes] = {}
        self._script: dict[str, deque[Answer]] = defaultdict(deque)

    def next(self, method: str, *answers: Answer) -> None:
        """Gives these answers to the next calls of a method."""
        self._script[method].extend(answers)

    def methods(self) -> list[str]:
        """The names of the methods that were called, in order."""
        return [asked.method for asked in self.asked]

    def requests(self, method: str) -> list[Any]:
        return [asked.request for asked in self.asked if asked.method == method]

    async def arrived(self, method: str, count: int = 1) -> None:
        """Waits until a method was called so many times."""
        async with self.arrivals:
            await self.arrivals.wait_for(lambda: len(self.requests(method)) >= count)

    async def ExecuteStream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # writes by itself
        await self._lists(manager_pb2.ExecuteStreamResponse, self._plan, request_iterator, context)

    async def CallStream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # writes by itself
        await self._lists(manager_pb2.CallStreamResponse, self._call, request_iterator, context)

    async def _lists(self, response: Any, answer: Any, request_iterator: Any, context: Any) -> None:
        if not self._streams:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this manager is of an earlier version")

        async def one(item: Any, context: Any) -> Any:
            answered = _Item(item, response.Item(id=item.id))
            with suppress(_Aborted):
                await answer(item, answered)
            return answered.answer

        def failed(item: Any, code: grpc.StatusCode, text: str) -> Any:
            return response.Item(id=item.id, error=transaction_pb2.CallStatus(code=code.value[0], message=text))

        server: ListServer[Any, Any] = ListServer(
            lambda message: message.items, one, failed, lambda answers: [response(items=answers)], at_once=1000
        )
        await server.serve(request_iterator, context)

    async def _plan(self, item: Any, answered: _Item) -> None:
        answered.answer.response.CopyFrom(await self.Execute(item.request, answered))

    async def _call(self, item: Any, answered: _Item) -> None:
        field = item.WhichOneof("call")
        method = getattr(self, field.removesuffix("_request").capitalize())
        answer = await method(getattr(item, field), answered)
        getattr(answered.answer, field.replace("request", "response")).CopyFrom(answer)

    async def _answer(self, method: str, request: Any, context: Context, usual: Answer) -> Any:
        metadata = dict(context.invocation_metadata() or ())
        self.asked.append(Asked(method, request, metadata, context.time_remaining()))
        async with self.arrivals:
            self.arrivals.notify_all()
        script = self._script[method]
        return await (script.popleft() if script else usual)(request, context)

    async def Execute(self, request: Any, context: Any) -> Any:
        return await self._answer("Execute", request, context, self.execute)

    async def execute(self, request: manager_pb2.ExecuteRequest, context: Context) -> manager_pb2.ExecuteResponse:
        plan = request.SerializeToString(deterministic=True)
        if self._plans.setdefault(request.gid, plan) != plan:
            await reuse("branch 0 has another request")(request, context)
        transaction = self._transaction(request.gid, transaction_pb2.STATE_CONFIRMING)
        if not transaction.branches:
            for branch in request.branches:
                _add(transaction, branch)
        return manager_pb2.ExecuteResponse(transaction=transaction)

    async def Begin(self, request: Any, context: Any) -> Any:
        return await self._answer("Begin", request, context, self.begin)

    async def begin(self, request: manager_pb2.BeginRequest, context: Context) -> manager_pb2.BeginResponse:
        return manager_pb2.BeginResponse(
            transaction=self._transaction(request.gid, transaction_pb2.STATE_TRYING, interactive=True)
        )

    async def Try(self, request: Any, context: Any) -> Any:
        return await self._answer("Try", request, context, self.reserve)

    async def reserve(self, request: manager_pb2.TryRequest, context: Context) -> manager_pb2.TryResponse:
        transaction = self.transactions[request.gid]
        if all(branch.step != request.branch.step for branch in transaction.branches):
            _add(transaction, request.branch)
        context.set_trailing_metadata(((wire.TRY_RESULT, "reserved"), ("till", "closed")))
        return manager_pb2.TryResponse(reply=_reply(request.branch))

    async def Confirm(self, request: Any, context: Any) -> Any:
        return await self._answer("Confirm", request, context, self.confirm)

    async def confirm(self, request: manager_pb2.ConfirmRequest, context: Context) -> manager_pb2.ConfirmResponse:
        return manager_pb2.ConfirmResponse(
            transaction=self._transaction(request.gid, transaction_pb2.STATE_CONFIRMING, advance=True)
        )

    async def Cancel(self, request: Any, context: Any) -> Any:
        return await self._answer("Cancel", request, context, self.cancel)

    async def cancel(self, request: manager_pb2.CancelRequest, context: Context) -> manager_pb2.CancelResponse:
        return manager_pb2.CancelResponse(
            transaction=self._transaction(request.gid, transaction_pb2.STATE_CANCELLING, advance=True)
        )

    async def Get(self, request: Any, context: Any) -> Any:
        return await self._answer("Get", request, context, self.get)

    async def get(self, request: manager_pb2.GetRequest, context: Context) -> manager_pb2.GetResponse:
        if request.gid not in self.transactions:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no transaction {request.gid}")
        return manager_pb2.GetResponse(transaction=self.transactions[request.gid])

    async def List(self, request: Any, context: Any) -> Any:
        return await self._answer("List", request, context, self.list)

    async def list(self, request: manager_pb2.ListRequest, context: Context) -> manager_pb2.ListResponse:
        start = int(request.page_token or 0)
        every = list(self.transactions.values())
        end = start + request.page_size
        token = str(end) if end < len(every) else ""
        return manager_pb2.ListResponse(transactions=every[start:end], next_page_token=token)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[manager_pb2.WatchResponse]:
        states = await self._answer("Watch", request, context, _no_states)
        for state in states:
            if isinstance(state, grpc.StatusCode):
                await context.abort(state, "as the test says")
            yield manager_pb2.WatchResponse(transaction=state)

    def _transaction(
        self,
        gid: str,
        state: transaction_pb2.State.ValueType,
        *,
        interactive: bool = False,
        advance: bool = False,
    ) -> transaction_pb2.Transaction:
        transaction = self.transactions.get(gid)
        if transaction is None:
            transaction = self.transactions[gid] = transaction_pb2.Transaction(
                namespace="default", gid=gid, state=state, version=1, interactive=interactive
            )
        elif advance and transaction.state != state:
            transaction.state = state
            transaction.version += 1
        return transaction


class _Aborted(Exception):
    pass


class _Item:
    """As much of a gRPC context as the answers use, for one item of a list."""

    def __init__(self, item: Any, answer: Any) -> None:
        self._item = item
        self.answer = answer

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [(entry.key, entry.value.decode()) for entry in self._item.metadata]

    def time_remaining(self) -> float:
        return float(self._item.timeout.ToNanoseconds() / 1e9)

    def set_trailing_metadata(self, trailers: Any) -> None:
        del self.answer.trailers[:]
        for key, value in trailers:
            self.answer.trailers.add(key=key, value=value if isinstance(value, bytes) else value.encode())

    async def abort(self, code: grpc.StatusCode, details: str, trailers: Any = ()) -> Never:
        rich = dict(trailers).get(wire.STATUS_DETAILS, b"")
        self.answer.error.CopyFrom(transaction_pb2.CallStatus(code=code.value[0], message=details, details=rich))
        others = [entry for entry in trailers if entry[0] != wire.STATUS_DETAILS]
        if others:
            self.set_trailing_metadata(others)
        raise _Aborted


async def _no_states(request: Any, context: Context) -> list[Any]:
    return []


def _reply(branch: manager_pb2.PlannedBranch) -> bytes:
    return REPLIES[branch.methods.try_method.rpartition("/")[2]]


def _add(transaction: transaction_pb2.Transaction, branch: manager_pb2.PlannedBranch) -> None:
    transaction.branches.add(
        step=branch.step or str(len(transaction.branches)),
        participant=branch.participant,
        methods=branch.methods,
        try_result=transaction_pb2.TRY_RESULT_RESERVED,
        try_status=transaction_pb2.CallStatus(),
        try_reply=_reply(branch),
    )


def fails(code: grpc.StatusCode, text: str = "as the test says", reason: str = "") -> Answer:
    """The manager's own error; with a reason, by its ErrorInfo."""

    async def answer(request: Any, context: Context) -> Never:
        details = wire.error_details(code, text, reason) if reason else None
        await context.abort(code, text, ((wire.STATUS_DETAILS, details),) if details else ())

    return answer


def reuse(difference: str) -> Answer:
    """The gid names other content."""

    async def answer(request: Any, context: Context) -> Never:
        code = grpc.StatusCode.ALREADY_EXISTS
        details = wire.error_details(code, "gid in use", wire.GID_REUSED, difference=difference)
        await context.abort(code, "gid in use", ((wire.STATUS_DETAILS, details),))

    return answer


def loses_the_reply(usual: Answer) -> Answer:
    """Does what it is asked, and then the answer is lost."""

    async def answer(request: Any, context: Context) -> Never:
        await usual(request, context)
        context.set_trailing_metadata(())  # lost with the rest
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    return answer


def never_answers() -> Answer:
    """Takes the call and says nothing until the client is gone."""

    async def answer(request: Any, context: Context) -> Never:
        await asyncio.Event().wait()
        raise AssertionError

    return answer


def after(event: asyncio.Event, then: Answer) -> Answer:
    """Waits for the test before it answers."""

    async def answer(request: Any, context: Context) -> Any:
        await event.wait()
        return await then(request, context)

    return answer


def cancelled(
    *refusals: transaction_pb2.Refusal,
    reason: transaction_pb2.CancelReason.ValueType = transaction_pb2.CANCEL_REASON_REFUSED,
) -> Answer:
    """Decided Cancel."""

    async def answer(request: Any, context: Context) -> Never:
        detail = any_pb2.Any()
        detail.Pack(transaction_pb2.Cancelled(gid=request.gid, reason=reason, refusals=refusals))
        code = grpc.StatusCode.ABORTED
        status = status_pb2.Status(code=code.value[0], message="cancelled", details=[detail])
        await context.abort(code, "cancelled", ((wire.STATUS_DETAILS, status.SerializeToString()),))

    return answer


def refuses(code: grpc.StatusCode, text: str, *, result: str = "refused", marked: bool = True) -> Answer:
    """The participant's answer to a Try, passed through."""

    async def answer(request: Any, context: Context) -> Never:
        trailers = [(wire.TRY_RESULT, result), ("till", "shut")]
        if marked:
            trailers.append((wire.REFUSED, "1"))
        await context.abort(code, text, tuple(trailers))

    return answer


def in_state(state: transaction_pb2.State.ValueType, response: Callable[..., Any]) -> Answer:
    """OK, with a transaction in this state."""

    async def answer(request: Any, context: Context) -> Any:
        return response(transaction=transaction_pb2.Transaction(gid=request.gid, state=state))

    return answer


def shows(*states: transaction_pb2.Transaction | grpc.StatusCode) -> Answer:
    """What a Watch shows; a status breaks it."""

    async def answer(request: Any, context: Context) -> Any:
        return states

    return answer


REFUSAL = transaction_pb2.Refusal(
    step="debit",
    participant="bank-a",
    method="/services.accounts.v1.Accounts/TryDebit",
    status=transaction_pb2.CallStatus(code=9, message="insufficient funds", details=b"\x08\x09"),
    marked=True,
    result=transaction_pb2.TRY_RESULT_REFUSED,
)
"""A bank without money."""
