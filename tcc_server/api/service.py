"""`tcc.v1.TransactionManager`: each method checks its request, asks the engine and renders the answer.

Every refusal is a status with an ErrorInfo. A decision to cancel is ABORTED with a `Cancelled` in its details, so that
no client can take it for a success by not looking.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from tcc import wire
from tcc.ids import DEFAULT_NAMESPACE
from tcc.streams import ListServer, listed, parts
from tcc.tracing import Rpc, Tags, TraceParent, Tracing
from tcc.v1 import manager_pb2 as pb, manager_pb2_grpc, transaction_pb2
from tcc_server.api import calls, render
from tcc_server.api.endings import Ended, abort, failure_to_tell, raise_if_cancelled
from tcc_server.api.errors import OF_CONFIGURATION, BadRequest, Failure
from tcc_server.api.plans import PlansTogether, Waiting
from tcc_server.api.requests import Requests
from tcc_server.api.under_way import UnderWay
from tcc_server.core.model import Branch, Decision, Key, Reservation, Status, Transaction
from tcc_server.engine.engine import Engine, is_final
from tcc_server.engine.errors import AlreadyDecided
from tcc_server.log.seam import BadToken, Filter

_T = TypeVar("_T")
_Context = grpc.aio.ServicerContext[object, object]
_Plan = pb.ExecuteStreamRequest.Item

_SERVICE = "tcc.v1.TransactionManager"
_PAGE, _PAGE_MAX, _GIDS_MAX = 100, 1000, 1000
_AT_ONCE = 16_384
"""Plans or calls of one stream that are waited for at a time."""
_ANSWER_MARGIN = 0.2
"""Seconds before the call's deadline at which a COMPLETED answer goes out with what there is."""
_PATIENCE = 60.0
"""Seconds that a call without a deadline waits for completion."""

_RESULT_WORDS = {
    Reservation.RESERVED: "reserved",
    Reservation.REFUSED: "refused",
    Reservation.DECLINED: "refused",
    Reservation.UNKNOWN: "unknown",
    Reservation.PENDING: "unknown",
}


class ManagerService(manager_pb2_grpc.TransactionManagerServicer):
    """Answers clients.

    Args:
        engine: does the work.
        requests: checks the requests.
        tracing: makes the spans of the calls.
    """

    def __init__(self, engine: Engine, requests: Requests, tracing: Tracing | None = None) -> None:
        self._engine = engine
        self._tracing = tracing or Tracing()
        self._requests = requests
        self._under_way = UnderWay()
        self._plans: ListServer[_Plan, bytes] = ListServer(
            _plans_in, self._planned, _failed_plan, _messages, at_once=_AT_ONCE, join=self._join_plans
        )
        self._calls: ListServer[calls.Item, bytes] = ListServer(
            _calls_in, self._called, _failed_call, _messages, at_once=_AT_ONCE
        )

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve there."""
        methods = _Methods()
        manager_pb2_grpc.add_TransactionManagerServicer_to_server(self, cast("grpc.aio.Server", methods))
        # What it writes is serialised already.
        methods.handlers["ExecuteStream"] = grpc.stream_stream_rpc_method_handler(
            self.ExecuteStream, pb.ExecuteStreamRequest.FromString
        )
        methods.handlers["CallStream"] = grpc.stream_stream_rpc_method_handler(
            self.CallStream, pb.CallStreamRequest.FromString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods.handlers),))

    def use(self, engine: Engine) -> None:
        """Ask another engine from now on: the one before has lost its lease."""
        self._engine = engine

    async def drained(self) -> None:
        """Returns once no call is in progress."""
        await self._under_way.over()

    def end_streams(self) -> None:
        """Take nothing more by streams; they end once what they brought is answered."""
        self._plans.end()
        self._calls.end()

    async def Execute(self, request: pb.ExecuteRequest, context: _Context) -> pb.ExecuteResponse:
        """Run a plan."""
        return await self._answer("Execute", request.gid, self._executed(request, context), context)

    async def ExecuteStream(self, request_iterator: Any, context: _Context) -> None:  # type: ignore[override]  # a coroutine that writes is gRPC's other way to stream
        """Run plans that come in lists."""
        await self._plans.serve(request_iterator, context)

    async def Begin(self, request: pb.BeginRequest, context: _Context) -> pb.BeginResponse:
        """Begin an interactive transaction."""
        return await self._answer("Begin", request.gid, self._begun(request), context)

    async def Try(self, request: pb.TryRequest, context: _Context) -> pb.TryResponse:
        """Enlist a branch and call its Try."""
        return await self._answer("Try", request.gid, self._tried(request, context), context)

    async def Confirm(self, request: pb.ConfirmRequest, context: _Context) -> pb.ConfirmResponse:
        """Ask for the Confirm of an interactive transaction."""
        return await self._answer("Confirm", request.gid, self._confirmed(request, context), context)

    async def Cancel(self, request: pb.CancelRequest, context: _Context) -> pb.CancelResponse:
        """Ask for the Cancel."""
        return await self._answer("Cancel", request.gid, self._cancelled(request, context), context)

    async def CallStream(self, request_iterator: Any, context: _Context) -> None:  # type: ignore[override]  # as ExecuteStream
        """Calls of interactive transactions that come in lists."""
        await self._calls.serve(request_iterator, context)

    async def Get(self, request: pb.GetRequest, context: _Context) -> pb.GetResponse:
        """One transaction."""
        return await self._answer("Get", request.gid, self._get(request), context)

    async def List(self, request: pb.ListRequest, context: _Context) -> pb.ListResponse:
        """Transactions by filter."""
        return await self._answer("List", "", self._list(request), context)

    async def Watch(self, request: pb.WatchRequest, context: _Context) -> AsyncIterator[pb.WatchResponse]:
        """One transaction's states until it is final."""
        try:
            key = self._key(request.gid)
            async for tx in self._engine.watch(key, request.after_version):
                yield pb.WatchResponse(transaction=render.transaction(tx))
        except Exception as error:  # every error of ours has a status; the rest is a bug and says so
            await abort(context, error)

    # What each does

    async def _executed(self, request: pb.ExecuteRequest, context: _Context) -> pb.ExecuteResponse:
        tx = await self._execute(request, _end_of(context), TraceParent.current())
        return pb.ExecuteResponse(transaction=render.transaction(tx, with_payloads=True))

    def _join_plans(
        self, items: Iterable[_Plan], context: _Context, tell: Callable[[Sequence[bytes]], None]
    ) -> tuple[PlansTogether | None, Iterable[_Plan]]:
        """Begins plans that need nothing but to be waited for: nearly all."""
        together = PlansTogether(_answer_to_plan, partial(self._planned, context=context), tell, self._under_way)
        try:
            others = [item for item in items if not self._joins(together, item)]
        except Exception:  # each goes by itself then, those that had joined as well
            together.leave()
            raise
        return (together if together.untold else None), others

    def _joins(self, together: PlansTogether, item: _Plan) -> bool:
        request = item.request
        trace = _trace_of(item.metadata) if item.metadata else _NO_TRACE
        if request.wait == pb.WAIT_COMPLETED or not trace.is_plain or not self._tracing.drops(trace):
            return False
        try:
            key, asks = self._key(request.gid), self._requests.plan(request.branches)
            name, timeout = self._requests.name(request.name), self._requests.timeout(request)
        except BadRequest:
            return False  # by itself it is told why
        waiting = Waiting(together, item)
        if not self._engine.put(key, name, asks, timeout, trace, waiting):
            return False
        together.add(waiting)
        return True

    async def _planned(self, item: _Plan, context: _Context) -> bytes:
        """One plan of a list: as a call of Execute, by itself."""
        said = _trace_of(item.metadata) if item.metadata else _NO_TRACE
        self._under_way.begun()
        try:
            if said.is_plain and self._tracing.drops(said):
                return await self._answer_plan(item, said, None)
            with self._served("Execute", item.request.gid, said) as rpc:
                return await self._answer_plan(item, TraceParent.current(), rpc)
        finally:
            self._under_way.ended()

    async def _answer_plan(self, item: _Plan, trace: TraceParent, rpc: Rpc | None) -> bytes:
        request = item.request
        try:
            end = _end_of_item(item) if request.wait == pb.WAIT_COMPLETED else None
            executed = render.serialised(await self._execute(request, end, trace), with_payloads=True)
        except Exception as error:  # every error of ours has a status; the rest is a bug and says so
            failure = failure_to_tell(error)
            if rpc is not None:
                rpc.ended(failure.code, failure.message)
            return _failed_plan(item, failure.code, failure.message, failure.details)
        if rpc is not None:
            rpc.ended(grpc.StatusCode.OK)
        return render.answer_to_plan(item.id, executed)

    async def _execute(self, request: pb.ExecuteRequest, end: float | None, trace: TraceParent) -> Transaction:
        key = self._key(request.gid)
        try:
            asks = self._requests.plan(request.branches)
        except BadRequest as refused:
            # What was taken under an earlier configuration still gets its answer.
            if refused.reason not in OF_CONFIGURATION or not await self._engine.knows(key):
                raise
            asks = self._requests.without_limits().plan(request.branches)
        name, timeout = self._requests.name(request.name), self._requests.timeout(request)
        tx = await self._engine.execute(key, name, asks, timeout, trace)
        if request.wait == pb.WAIT_COMPLETED:
            tx = await self._completed(tx, request.wait, end)
        raise_if_cancelled(tx)
        return tx

    async def _begun(self, request: pb.BeginRequest) -> pb.BeginResponse:
        tx = await self._begin(request, TraceParent.current())
        return pb.BeginResponse(transaction=render.transaction(tx))

    async def _tried(self, request: pb.TryRequest, context: _Context) -> pb.TryResponse:
        tried = await self._try(request)
        context.set_trailing_metadata(tried.trailers)
        return pb.TryResponse(reply=tried.reply())

    async def _confirmed(self, request: pb.ConfirmRequest, context: _Context) -> pb.ConfirmResponse:
        tx = await self._confirm(request, _end_of(context))
        return pb.ConfirmResponse(transaction=render.transaction(tx, with_payloads=True))

    async def _cancelled(self, request: pb.CancelRequest, context: _Context) -> pb.CancelResponse:
        return pb.CancelResponse(transaction=render.transaction(await self._cancel(request, _end_of(context))))

    async def _called(self, item: calls.Item, context: _Context) -> bytes:
        """One call of a list: as by itself."""
        method = calls.method_of(item)
        if method is None:
            return calls.failed(
                item.id, failure_to_tell(BadRequest("an item of the list is no call that this manager knows"))
            )
        gid = _gid_of(item)
        said = _trace_of(item.metadata) if item.metadata else _NO_TRACE
        self._under_way.begun()
        try:
            trace = said if said.parent else self._engine.trace_of(Key(DEFAULT_NAMESPACE, gid))
            async with asyncio.timeout_at(_end_of_item(item)):  # nobody waits for it after that
                if trace.is_plain and self._tracing.drops(trace):
                    return await self._answer_call(item, method, trace, None)
                with self._served(method, gid, said) as rpc:
                    return await self._answer_call(item, method, TraceParent.current(), rpc)
        except TimeoutError:
            return _failed_call(item, grpc.StatusCode.DEADLINE_EXCEEDED, "no answer within the call's time")
        finally:
            self._under_way.ended()

    async def _answer_call(self, item: calls.Item, method: calls.Method, trace: TraceParent, rpc: Rpc | None) -> bytes:
        trailers: calls.Trailers = ()
        try:
            match method:
                case "Begin":
                    body = render.serialised(await self._begin(item.begin_request, trace))
                case "Try":
                    tried = await self._try(item.try_request)
                    trailers = tried.trailers
                    body = tried.reply()
                case "Confirm":
                    confirmed = await self._confirm(item.confirm_request, _end_of_item(item))
                    body = render.serialised(confirmed, with_payloads=True)
                case "Cancel":
                    body = render.serialised(await self._cancel(item.cancel_request, _end_of_item(item)))
        except Exception as error:  # every error of ours has a status; the rest is a bug and says so
            failure = failure_to_tell(error)
            if rpc is not None:
                rpc.ended(failure.code, failure.message)
            return calls.failed(item.id, failure, trailers)
        if rpc is not None:
            rpc.ended(grpc.StatusCode.OK)
        return calls.answered(item.id, method, body, trailers)

    async def _begin(self, request: pb.BeginRequest, trace: TraceParent) -> Transaction:
        key = self._key(request.gid)
        name, timeout = self._requests.name(request.name), self._requests.timeout(request)
        return await self._engine.begin(key, name, timeout, trace)

    async def _try(self, request: pb.TryRequest) -> _Tried:
        key = self._key(request.gid)
        ask = self._requests.branch(request.branch)
        try:
            tx, trailers = await self._engine.enlist(key, ask)
        except AlreadyDecided as late:
            raise_if_cancelled(late.tx)
            raise
        position = tx.find(ask.step)
        branch = tx.branches[position if position is not None else 0]
        if branch.reservation in (Reservation.PENDING, Reservation.UNKNOWN) and tx.decision is Decision.CANCEL:
            raise_if_cancelled(tx)
        result = (wire.TRY_RESULT, _RESULT_WORDS[branch.reservation])
        return _Tried(branch, (*_app_trailers(trailers, branch), result))

    async def _confirm(self, request: pb.ConfirmRequest, end: float | None) -> Transaction:
        tx = await self._engine.confirm(self._key(request.gid))
        tx = await self._completed(tx, request.wait, end)
        raise_if_cancelled(tx)
        return tx

    async def _cancel(self, request: pb.CancelRequest, end: float | None) -> Transaction:
        tx = await self._engine.cancel(self._key(request.gid), request.reason[:256])
        return await self._completed(tx, request.wait, end)

    async def _get(self, request: pb.GetRequest) -> pb.GetResponse:
        if request.HasField("tried_at"):
            raise BadRequest(
                "tried_at is not answered yet: ask without it", "NOT_SERVED", grpc.StatusCode.UNIMPLEMENTED
            )
        tx = await self._engine.get(self._key(request.gid))
        return pb.GetResponse(transaction=render.transaction(tx, with_payloads=request.with_payloads))

    async def _list(self, request: pb.ListRequest) -> pb.ListResponse:
        if len(request.gids) > _GIDS_MAX:
            raise BadRequest(f"{len(request.gids)} gids, the limit is {_GIDS_MAX}", "LIMIT_EXCEEDED")
        states = []
        for number in request.states:
            if number not in render.STATE_OF:
                raise BadRequest(f"states: {number} is no state that a stored transaction can have")
            states.append(render.STATE_OF[number])
        wanted = Filter(
            namespace=DEFAULT_NAMESPACE,
            states=tuple(states),
            attention=request.attention if request.HasField("attention") else None,
            name=request.name,
            gids=tuple(request.gids),
            begun_from=_moment(request, "begun_from"),
            begun_before=_moment(request, "begun_before"),
        )
        try:
            found, token = await self._engine.list(
                wanted, min(request.page_size or _PAGE, _PAGE_MAX), request.page_token or None
            )
        except BadToken as error:
            raise BadRequest(f"page_token: {error}: start again without one", "BAD_PAGE_TOKEN") from error
        return pb.ListResponse(
            transactions=[render.transaction(tx, with_branches=False) for tx in found], next_page_token=token or ""
        )

    # Around each

    def _key(self, gid: str) -> Key:
        return Key(DEFAULT_NAMESPACE, self._requests.gid(gid))

    async def _answer(self, method: str, gid: str, work: Awaitable[_T], context: _Context) -> _T:
        said = TraceParent.of(context.invocation_metadata() or ())
        self._under_way.begun()
        try:
            with self._served(method, gid, said) as rpc:
                try:
                    return await work
                except Exception as error:  # every error of ours has a status; the rest is a bug and says so
                    await abort(context, error)
                finally:
                    rpc.ended(_code_of(context), str(context.details() or ""))
        finally:
            self._under_way.ended()

    def _served(self, method: str, gid: str, said: TraceParent) -> AbstractContextManager[Rpc]:
        # A client without tracing gets its calls into the trace that its transaction has.
        parent = said if said.parent else self._engine.trace_of(Key(DEFAULT_NAMESPACE, gid))
        return self._tracing.served(f"/{_SERVICE}/{method}", parent, Tags(gid=gid))

    async def _completed(self, tx: Transaction, wait: pb.Wait.ValueType, end: float | None) -> Transaction:
        if wait != pb.WAIT_COMPLETED or tx.state.is_final:
            return tx
        until = asyncio.get_running_loop().time() + _PATIENCE if end is None else end - _ANSWER_MARGIN
        try:
            async with asyncio.timeout_at(until):
                return await self._engine.wait(tx.key, is_final)
        except TimeoutError:
            return await self._engine.get(tx.key)


_NO_TRACE = TraceParent()
_plans_in: Callable[[pb.ExecuteStreamRequest], Iterable[_Plan]] = attrgetter("items")
_calls_in: Callable[[pb.CallStreamRequest], Iterable[calls.Item]] = attrgetter("items")


def _messages(answers: Sequence[bytes]) -> Iterable[bytes]:
    return map(listed, parts(answers, len))


def _trace_of(entries: Iterable[transaction_pb2.Metadata]) -> TraceParent:
    return TraceParent.of([(entry.key, entry.value.decode(errors="replace")) for entry in entries])


# A call's end is taken when the call comes: what passes before the decision is not there for what comes after it.


def _end_of_item(item: _Plan | calls.Item) -> float | None:
    if not item.HasField("timeout"):
        return None
    return asyncio.get_running_loop().time() + item.timeout.seconds + item.timeout.nanos / 1e9


def _answer_to_plan(item: _Plan, end: Transaction | BaseException) -> bytes:
    try:
        if isinstance(end, BaseException):
            raise end
        raise_if_cancelled(end)
        return render.answer_to_plan(item.id, render.serialised(end, with_payloads=True))
    except Exception as error:  # every error of ours has a status; the rest is a bug and says so
        failure = failure_to_tell(error)
        return _failed_plan(item, failure.code, failure.message, failure.details)


def _failed_plan(item: _Plan, code: grpc.StatusCode, message: str, details: bytes = b"") -> bytes:
    error = transaction_pb2.CallStatus(code=code.value[0], message=message, details=details)
    return pb.ExecuteStreamResponse.Item(id=item.id, error=error).SerializeToString()


def _failed_call(item: calls.Item, code: grpc.StatusCode, message: str) -> bytes:
    return calls.failed(item.id, Failure(code, message, b""))


def _gid_of(item: calls.Item) -> str:
    gid: str = getattr(item, str(item.WhichOneof("call"))).gid
    return gid


def _code_of(context: _Context) -> grpc.StatusCode:
    code: object = context.code()  # grpc.aio gives the number, whatever its stub says
    if isinstance(code, int):
        return wire.STATUS_BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK


def _end_of(context: _Context) -> float | None:
    left: float | None = context.time_remaining()  # None where the call has no deadline, whatever its stub says
    return None if left is None else asyncio.get_running_loop().time() + left


def _app_trailers(trailers: Iterable[tuple[str, str | bytes]], branch: Branch) -> tuple[tuple[str, str | bytes], ...]:
    passed = tuple(pair for pair in trailers if not pair[0].startswith("grpc-") and pair[0] != wire.TRY_RESULT)
    mark = (wire.REFUSED, "1")
    if branch.reservation is Reservation.REFUSED and mark not in passed:
        return (*passed, mark)  # a repeated Try is answered from the log, which keeps no other trailers
    return passed


def _moment(request: pb.ListRequest, field: str) -> float | None:
    if not request.HasField(field):  # type: ignore[arg-type]  # the stub wants a literal
        return None
    stamp: Timestamp = getattr(request, field)
    try:
        return stamp.ToNanoseconds() / 1e9
    except ValueError as error:
        raise BadRequest(f"{field} is no valid time: {error}") from error


@dataclass(frozen=True, slots=True)
class _Tried:
    """What became of an interactive Try.

    Attributes:
        trailers: what goes with the answer.
    """

    branch: Branch
    trailers: tuple[tuple[str, str | bytes], ...]

    def reply(self) -> bytes:
        """The participant's. Raises Ended with its status where it is not reserved."""
        if self.branch.reservation is Reservation.RESERVED:
            return self.branch.reply
        status = self.branch.status or Status(4, "the Try was not answered in time")
        raise Ended(wire.STATUS_BY_NUMBER[status.code], status.message, status.details)


class _Methods:
    """Stands in for a server, to hear of the methods that the generated code would add to one."""

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same, made opaque."""

    def add_registered_method_handlers(
        self, service: str, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self.handlers.update(handlers)
