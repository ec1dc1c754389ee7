"""A link between a stub and a servicer in one process: the real messages, the real statuses, no port.

`Link` collects what a generated `add_..._to_server` registers, and is the `grpc.aio.Channel` for the generated stub.
Messages are serialised on the way, so that nothing passes here that would not pass over a network.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

Metadata = Iterable[tuple[str, str | bytes]]
_Encode = Callable[[Any], bytes]
_Decode = Callable[[bytes], Any]


class Link(grpc.aio.Channel):
    """Both ends: register servicers on it, then make stubs of it."""

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._closed = False

    # The server's side, as generated code calls it.

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[object]) -> None:
        """Nothing: the registered handlers are all there is."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Take a service in."""
        self._handlers.update({f"/{service_name}/{name}": handler for name, handler in method_handlers.items()})

    # The channel's side.

    def unary_unary(
        self,
        method: str,
        request_serializer: _Encode | None = None,
        response_deserializer: _Decode | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """A method of the other side."""
        return _Method(self, method, request_serializer or bytes, response_deserializer or bytes, _UnaryCall)

    def unary_stream(
        self,
        method: str,
        request_serializer: _Encode | None = None,
        response_deserializer: _Decode | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """A method of the other side that answers with a stream."""
        return _Method(self, method, request_serializer or bytes, response_deserializer or bytes, _StreamCall)

    def stream_unary(self, method: str, *_: Any, **__: Any) -> Any:
        """Not carried: a stub may be made, its call fails."""
        return _not_carried(method)

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Not carried: a stub may be made, its call fails."""
        return _not_carried(method)

    def handler(self, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        """What answers a method."""
        if self._closed or method not in self._handlers:
            raise _error(grpc.StatusCode.UNAVAILABLE, "the link is closed" if self._closed else f"no {method} here")
        return self._handlers[method]

    async def close(self, grace: float | None = None) -> None:
        """Calls fail from now on."""
        self._closed = True

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Ready until closed."""
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns once the state is another."""
        while self.get_state() is last_observed_state:  # noqa: ASYNC110  it changes once, at close
            await asyncio.sleep(0.05)

    async def channel_ready(self) -> None:
        """It is."""

    async def __aenter__(self) -> Link:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Context(grpc.aio.ServicerContext[Any, Any]):
    """What a servicer sees of a call over the link."""

    def __init__(self, metadata: Metadata, timeout: float | None) -> None:
        self._metadata = tuple(metadata)
        self._until = None if timeout is None else time.monotonic() + timeout
        self.status = grpc.StatusCode.OK
        self.text = ""
        self.trailers: tuple[tuple[str, str | bytes], ...] = ()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with a status."""
        self.status, self.text = code, details
        self.trailers = tuple(trailing_metadata) or self.trailers
        raise grpc.aio.AbortError

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a status."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def invocation_metadata(self) -> Any:
        """The caller's metadata."""
        return self._metadata

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """What follows the answer."""
        self.trailers = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """What was set."""
        return self.trailers

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status of an answer that is not aborted."""
        self.status = code

    def set_details(self, details: str) -> None:
        """The text to it."""
        self.text = details

    def code(self) -> grpc.StatusCode:
        """What was set."""
        return self.status

    def details(self) -> str:
        """What was set."""
        return self.text

    def time_remaining(self) -> Any:
        """Seconds until the caller's timeout; None without one."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def peer(self) -> str:
        """Where the call comes from."""
        return "in-process"

    async def read(self) -> NoReturn:
        """Not carried."""
        raise NotImplementedError("no request streams over the link")

    async def write(self, message: object) -> NoReturn:
        """Not carried."""
        raise NotImplementedError("yield the responses")

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Not carried."""

    def set_compression(self, compression: grpc.Compression) -> None:
        """Nothing to compress."""

    def disable_next_message_compression(self) -> None:
        """Nothing to compress."""

    def peer_identities(self) -> None:
        """Nobody."""

    def peer_identity_key(self) -> None:
        """Nobody."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Nothing."""
        return {}


class _Method:
    """A multi-callable."""

    def __init__(self, link: Link, path: str, encode: _Encode, decode: _Decode, call: type[_Call]) -> None:
        self._link, self._path, self._encode, self._decode, self._call = link, path, encode, decode, call

    def __call__(
        self,
        request: object,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: object = None,
        wait_for_ready: bool | None = None,
        compression: object = None,
    ) -> _Call:
        context = Context(metadata or (), timeout)
        return self._call(self._link, self._path, self._encode(request), self._decode, context, timeout)


class _Call:
    """What unary and streaming calls have in common."""

    def __init__(
        self, link: Link, path: str, request: bytes, decode: _Decode, context: Context, timeout: float | None
    ) -> None:
        self._link, self._path, self._request, self._decode = link, path, request, decode
        self._context, self._timeout = context, timeout
        self._cancelled = False
        self._start()

    def _start(self) -> None:
        raise NotImplementedError

    def cancel(self) -> bool:
        """Stop the call."""
        self._cancelled = True
        return True

    def cancelled(self) -> bool:
        """Whether it was."""
        return self._cancelled

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """What followed the answer."""
        return grpc.aio.Metadata(*self._context.trailers)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """None is carried."""
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        """The status."""
        return self._context.status

    async def details(self) -> str:
        """The text to it."""
        return self._context.text

    def _parsed(self) -> tuple[Any, grpc.RpcMethodHandler[Any, Any]]:
        handler = self._link.handler(self._path)
        parse = handler.request_deserializer
        return (parse(self._request) if parse else self._request), handler

    def _ended(self, error: BaseException) -> grpc.aio.AioRpcError:
        if isinstance(error, grpc.aio.AioRpcError):
            return error
        if isinstance(error, TimeoutError):
            return _error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        if isinstance(error, grpc.aio.AbortError):
            return _error(self._context.status, self._context.text, self._context.trailers)
        return _error(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")


class _UnaryCall(_Call):
    def _start(self) -> None:
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def cancel(self) -> bool:
        super().cancel()
        return self._task.cancel()

    def done(self) -> bool:
        """Whether it ended."""
        return self._task.done()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._task.__await__()

    async def _run(self) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                request, handler = self._parsed()
                work: Awaitable[Any] = _behaviour(handler.unary_unary)(request, self._context)
                answer = await work
            if self._context.status is not grpc.StatusCode.OK:
                raise _error(self._context.status, self._context.text, self._context.trailers)
            encode = handler.response_serializer
            return self._decode(encode(answer) if encode else answer)
        except Exception as error:
            raise self._ended(error) from error


class _StreamCall(_Call):
    def _start(self) -> None:
        self._answers = self._run()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._answers

    async def _run(self) -> AsyncIterator[Any]:
        try:
            async with asyncio.timeout(self._timeout):
                request, handler = self._parsed()
                encode = handler.response_serializer
                stream: AsyncIterator[Any] = _behaviour(handler.unary_stream)(request, self._context)
                async for answer in stream:
                    if self._cancelled:
                        return
                    yield self._decode(encode(answer) if encode else answer)
        except Exception as error:
            raise self._ended(error) from error


def _behaviour(field: Any) -> Callable[[Any, Context], Any]:
    behaviour: Callable[[Any, Context], Any] = field  # one of a handler's four fields is set, says the stub's own path
    return behaviour


def _not_carried(method: str) -> Callable[..., NoReturn]:
    def call(*_: Any, **__: Any) -> NoReturn:
        raise _error(grpc.StatusCode.UNIMPLEMENTED, f"{method}: request streams are not carried in process")

    return call


def _error(code: grpc.StatusCode, text: str, trailers: Metadata = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), text)
