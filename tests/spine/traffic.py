"""What happens to calls on their way into a participant: a server interceptor that does what a test says.

It stands before the SDK, so what it answers by itself is what a proxy, a load balancer or a broken link would answer:
never marked as the participant's own refusal.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio

Serve: TypeAlias = Callable[[], Awaitable[bytes]]
Script: TypeAlias = Callable[[Serve, Any], Awaitable[bytes]]


@dataclass(frozen=True)
class Arrived:
    """A call as it came in."""

    path: str
    request: bytes
    metadata: tuple[tuple[str, str | bytes], ...]

    @property
    def method(self) -> str:
        """The name of the method alone."""
        return self.path.rpartition("/")[2]

    def entry(self, key: str) -> str:
        """A metadata value."""
        return str(dict(self.metadata)[key])


class Traffic(grpc.aio.ServerInterceptor):
    """Keeps every call, and lets the next ones of a method meet what was planned for them; then they pass.

    Attributes:
        arrived: every call so far.
    """

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        self._next: dict[str, deque[Script]] = defaultdict(deque)
        self._always: dict[str, Script] = {}
        self._changed = asyncio.Condition()

    def next(self, method: str, *scripts: Script) -> None:
        """What the next calls of a method meet, one each."""
        self._next[method].extend(scripts)

    def always(self, method: str, script: Script | None) -> None:
        """What all further calls of a method meet; None: nothing any more."""
        if script is None:
            self._always.pop(method, None)
        else:
            self._always[method] = script

    def calls(self, method: str) -> list[Arrived]:
        """The calls of a method."""
        return [call for call in self.arrived if call.method == method]

    async def until(self, method: str, count: int = 1) -> Arrived:
        """Wait for so many calls of a method; gives the last of them."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.calls(method)) >= count)
        return self.calls(method)[count - 1]

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Put the script around the handler."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        path = handler_call_details.method
        metadata = tuple(handler_call_details.invocation_metadata or ())

        async def serve(request: Any, context: Any) -> Any:
            call = Arrived(path, request if isinstance(request, bytes) else request.SerializeToString(), metadata)
            self.arrived.append(call)
            async with self._changed:
                self._changed.notify_all()
            planned = self._next[call.method]
            script = planned.popleft() if planned else self._always.get(call.method)
            if script is None:
                return await handler.unary_unary(request, context)
            return await script(lambda: handler.unary_unary(request, context), context)

        return grpc.unary_unary_rpc_method_handler(
            serve,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


async def loses_the_reply(serve: Serve, context: Any) -> bytes:
    """The call is carried out, and the connection breaks before the answer."""
    await serve()
    await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset by peer")
    raise AssertionError


def answers(code: grpc.StatusCode, text: str) -> Script:
    """Something in between answers; the participant never sees the call."""

    async def script(serve: Serve, context: Any) -> bytes:
        await context.abort(code, text)
        raise AssertionError

    return script


async def never_answers(serve: Serve, context: Any) -> bytes:
    """The call is stuck on its way; the participant never sees it."""
    await asyncio.Event().wait()
    raise AssertionError


def waits_for(event: asyncio.Event) -> Script:
    """The call is held up until the event, and then carried out."""

    async def script(serve: Serve, context: Any) -> bytes:
        await event.wait()
        return await serve()

    return script
