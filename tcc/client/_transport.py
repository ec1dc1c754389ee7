"""The only place that sends anything to a manager: one attempt of one call, by whatever way is best.

The law: an attempt either returns the manager's answer or raises the `grpc.aio.AioRpcError` of that attempt, and
nothing is sent before the connection was seen to be ready. So whoever repeats knows whether anything can have arrived.
What decides over transactions leaves in lists on streams, unless the channel is the user's own, whose interceptors are
to see each call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias, TypeVar

import grpc
import grpc.aio
from opentelemetry import propagate

from tcc import wire
from tcc.client._lists import Lists, metadata_of
from tcc.errors import UsageError
from tcc.streams import NotOffered
from tcc.tracing import Rpc, Tags, TraceParent, Tracing
from tcc.v1 import manager_pb2, manager_pb2_grpc

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_SERVICE: Final = "tcc.v1.TransactionManager"
_TRACE_KEYS: Final = frozenset({wire.TRACEPARENT, wire.TRACESTATE})

_Plans: TypeAlias = Lists[manager_pb2.ExecuteStreamResponse.Item]
_Calls: TypeAlias = Lists[manager_pb2.CallStreamResponse.Item]
CallMetadata = tuple[tuple[str, str], ...] | None

_OPTIONS: Final[dict[str, int]] = {
    "grpc.enable_http_proxy": 0,
    # A manager that comes back is found within a second or two, not after gRPC's two minutes.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 2_000,
    "grpc.max_reconnect_backoff_ms": 2_000,
    # 64 Try replies do not fit gRPC's 4 MiB if each is as large as a request may be.
    "grpc.max_receive_message_length": 32 * 1024 * 1024,
    # A manager that fell silent without a word is left after 15 s, so that calls go to another one within the 30 s of a
    # transaction. gRPC waits a minute for the answer to a ping, whatever the keepalive's own timeout is.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.http2.ping_timeout_ms": 5_000,
    # Whoever only waits sends nothing, and would be down to one ping a minute after two. Managers permit all of them.
    "grpc.http2.max_pings_without_data": 0,
}


def trace_context() -> CallMetadata:
    """The current OpenTelemetry context as metadata."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((key.lower(), value) for key, value in carrier.items()) or None


_FIELDS: Final = {
    "Begin": "begin_request",
    "Try": "try_request",
    "Confirm": "confirm_request",
    "Cancel": "cancel_request",
}
"""Which field of a list's item each call is."""
_Interactive: TypeAlias = (
    manager_pb2.BeginRequest | manager_pb2.TryRequest | manager_pb2.ConfirmRequest | manager_pb2.CancelRequest
)
_NO_TRACE: Final = TraceParent()


class Transport:
    """A connection to a manager.

    Args:
        target: the manager's address, as gRPC takes it.
        credentials: for TLS; None: plain text.
        options: gRPC channel options, which go before the SDK's own.
        channel: a channel to use in place of all that; it is not closed here.
        tracing: makes the spans of the calls.
    """

    def __init__(
        self,
        target: str | None,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, object]],
        channel: grpc.aio.Channel | None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing or Tracing()
        self._own = channel is None
        self._closed = False
        if channel is None:
            merged = list({**_OPTIONS, **dict(options)}.items())
            if target is None:
                raise UsageError("a Manager needs the manager's address or a channel")
            channel = (
                grpc.aio.insecure_channel(target, merged)
                if credentials is None
                else grpc.aio.secure_channel(target, credentials, merged)
            )
        self._channel = channel
        self._stub = manager_pb2_grpc.TransactionManagerStub(channel)
        self._plans: _Plans | None = None
        self._calls: _Calls | None = None
        if self._own:
            self._plans = Lists(
                channel, "ExecuteStream", manager_pb2.ExecuteStreamRequest.Item, manager_pb2.ExecuteStreamResponse
            )
            self._calls = Lists(
                channel, "CallStream", manager_pb2.CallStreamRequest.Item, manager_pb2.CallStreamResponse
            )

    def is_closed(self) -> bool:
        """Nothing is sent any more."""
        return self._closed

    def is_ready(self) -> bool:
        """The connection stands now; if it does not, it is being made."""
        state = grpc.ChannelConnectivity.SHUTDOWN if self._closed else self._channel.get_state(try_to_connect=True)
        return state is grpc.ChannelConnectivity.READY

    async def ready(self, timeout: float) -> bool:
        """Waits until the connection stands, at most `timeout` seconds; says whether it does.

        Raises:
            UsageError: the Manager is closed.
        """
        if self._closed:
            raise UsageError("this Manager is closed")
        channel = self._channel
        if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return True
        try:
            async with asyncio.timeout(timeout):
                await channel.channel_ready()
        except TimeoutError:
            return False
        except grpc.aio.UsageError as error:  # closed while we waited
            raise UsageError("this Manager was closed") from error
        return True

    async def execute(self, gid: str, request: bytes, timeout: float) -> manager_pb2.ExecuteResponse:
        """One attempt of Execute.

        Args:
            gid: the transaction that the request names, for traces.
            request: serialised, since it leaves inside a list.
            timeout: seconds.
        """
        if self._plans is not None and self._plans.offered:
            try:
                return await self._planned(self._plans, gid, request, timeout)
            except NotOffered:
                pass  # the manager did not look at it
        message = manager_pb2.ExecuteRequest.FromString(request)
        return (await self._attempt(self._stub.Execute, "Execute", message, timeout, TraceParent.current()))[0]

    async def begin(self, request: manager_pb2.BeginRequest, timeout: float) -> manager_pb2.BeginResponse:
        """One attempt of Begin."""
        trace = TraceParent.current()
        listed = await self._listed("Begin", request, timeout, trace)
        if listed is not None:
            return listed.begin_response
        return (await self._attempt(self._stub.Begin, "Begin", request, timeout, trace))[0]

    async def attempt_try(
        self, request: manager_pb2.TryRequest, timeout: float, *, parent: TraceParent
    ) -> tuple[manager_pb2.TryResponse, grpc.aio.Metadata]:
        """One attempt of Try; its reply and the participant's trailing metadata.

        Args:
            request: the Try.
            timeout: seconds.
            parent: the transaction's trace, which the call belongs to where nobody traces here; as the next two.
        """
        trace = _here_or(parent)
        listed = await self._listed("Try", request, timeout, trace)
        if listed is not None:
            return listed.try_response, metadata_of(listed.trailers)
        response, call = await self._attempt(self._stub.Try, "Try", request, timeout, trace)
        return response, await call.trailing_metadata()

    async def confirm(
        self, request: manager_pb2.ConfirmRequest, timeout: float, *, parent: TraceParent = _NO_TRACE
    ) -> manager_pb2.ConfirmResponse:
        """One attempt of Confirm."""
        trace = _here_or(parent)
        listed = await self._listed("Confirm", request, timeout, trace)
        if listed is not None:
            return listed.confirm_response
        return (await self._attempt(self._stub.Confirm, "Confirm", request, timeout, trace))[0]

    async def cancel(
        self, request: manager_pb2.CancelRequest, timeout: float, *, parent: TraceParent = _NO_TRACE
    ) -> manager_pb2.CancelResponse:
        """One attempt of Cancel."""
        trace = _here_or(parent)
        listed = await self._listed("Cancel", request, timeout, trace)
        if listed is not None:
            return listed.cancel_response
        return (await self._attempt(self._stub.Cancel, "Cancel", request, timeout, trace))[0]

    async def get(self, request: manager_pb2.GetRequest, timeout: float) -> manager_pb2.GetResponse:
        """One attempt of Get."""
        return (await self._attempt(self._stub.Get, "Get", request, timeout, TraceParent.current()))[0]

    async def list(self, request: manager_pb2.ListRequest, timeout: float) -> manager_pb2.ListResponse:
        """One attempt of List."""
        return (await self._attempt(self._stub.List, "List", request, timeout, TraceParent.current()))[0]

    async def watch(
        self, request: manager_pb2.WatchRequest, metadata: CallMetadata
    ) -> AsyncGenerator[manager_pb2.WatchResponse, None]:
        """One stream of Watch, until it ends or breaks."""
        call = self._stub.Watch(request, metadata=metadata)
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()

    async def _planned(self, plans: _Plans, gid: str, request: bytes, timeout: float) -> manager_pb2.ExecuteResponse:
        here = TraceParent.current()
        if self._tracing.drops(here):
            return (await plans.call("request", request, timeout, here)).response
        with self._spanned("Execute", here, gid) as span:
            response = (await plans.call("request", request, timeout, span.trace)).response
            span.ended(grpc.StatusCode.OK)
            return response

    async def _listed(
        self, name: str, request: _Interactive, timeout: float, trace: TraceParent
    ) -> manager_pb2.CallStreamResponse.Item | None:
        """One attempt of a call by its stream; None where there is none, and nobody has looked at the call."""
        calls = self._calls
        if calls is None or not calls.offered:
            return None
        field, body = _FIELDS[name], request.SerializeToString()
        try:
            if self._tracing.drops(trace):
                return await calls.call(field, body, timeout, trace)
            with self._spanned(name, trace, request.gid) as span:
                answer = await calls.call(field, body, timeout, span.trace)
                span.ended(grpc.StatusCode.OK)
                return answer
        except NotOffered:
            return None

    async def _attempt(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        name: str,
        request: _Request,
        timeout: float,
        trace: TraceParent,
    ) -> tuple[_Response, grpc.aio.UnaryUnaryCall[_Request, _Response]]:
        with self._spanned(name, trace, getattr(request, "gid", "")) as span:
            others = tuple(entry for entry in trace_context() or () if entry[0] not in _TRACE_KEYS)
            call = method(request, timeout=timeout, metadata=(*others, *span.trace.metadata()) or None)
            response = await call
            span.ended(grpc.StatusCode.OK)
            return response, call

    @contextmanager
    def _spanned(self, name: str, trace: TraceParent, gid: str) -> Iterator[Rpc]:
        """A call's span; what it ends with otherwise than with OK is said here."""
        with self._tracing.call(f"/{_SERVICE}/{name}", trace, Tags(gid=gid)) as span:
            try:
                yield span
            except grpc.aio.AioRpcError as error:
                span.ended(error.code(), error.details() or "")
                raise

    async def close(self) -> None:
        """Ends the connection, and whatever still waits on it."""
        if self._closed:
            return
        self._closed = True
        for lists in (self._plans, self._calls):
            if lists is not None:
                await lists.close()
        if self._own:
            await self._channel.close()


def _here_or(parent: TraceParent) -> TraceParent:
    """The trace that a call belongs to: nobody has to trace here for it to belong to its transaction's."""
    here = TraceParent.current()
    return here if here.parent else parent
