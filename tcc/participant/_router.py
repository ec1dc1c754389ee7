"""From a gRPC call to its handler: actions go through the runtime, everything else passes untouched.

A call that a manager sends as a branch never reaches a method that is no action: without a fence row its Confirm would
have nothing to stand on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio

from tcc import wire
from tcc.errors import UsageError
from tcc.fence import Phase
from tcc.participant._binding import Handler, bind
from tcc.participant._context import Trailers
from tcc.participant._runtime import ParticipantRuntime
from tcc.tracing import Tags, TraceParent, Tracing

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
RawHandler: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]


class _Details(grpc.HandlerCallDetails):
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


class Router(grpc.GenericRpcHandler):
    """All handlers of a server.

    Args:
        runtime: runs the phases.
        tracing: makes the spans of their calls.
    """

    def __init__(self, runtime: ParticipantRuntime, tracing: Tracing) -> None:
        self._runtime = runtime
        self._tracing = tracing
        self._actions: dict[str, Handler] = {}
        self._plain: dict[str, Handler] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._services: list[str] = []

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of the services that were registered, in order."""
        return tuple(self._services)

    def add_generic(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Takes in generic handlers; the actions of those that name their service are bound.

        Raises:
            UsageError: see `bind`; or the service has been added before.
        """
        for handler in handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                service = handler.service_name()
                if service in self._services:
                    raise UsageError(f"{service} is added twice: a server has one servicer for each service")
                self._bind(service, partial(_found, handler))
                self._services.append(service)
            self._generic.append(handler)

    def add_registered(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Takes in what the generated code registers beside the generic handler of the same service.

        Raises:
            UsageError: see `bind`.
        """
        by_path = {f"/{service}/{name}": handler for name, handler in handlers.items()}
        if service not in self._services:
            self._bind(service, by_path.get)
            self._services.append(service)
        self._plain.update(by_path)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call; None where there is none."""
        path = handler_call_details.method
        action = self._actions.get(path)
        if action is not None:
            return action
        phase = _phase_of(handler_call_details.invocation_metadata)
        if phase is not None:
            return _raw(self._try(path) if phase is Phase.TRY else self._settle(phase, path))
        plain = self._plain.get(path)
        if plain is not None:
            return plain
        for generic in self._generic:
            found = generic.service(handler_call_details)
            if found is not None:
                return found
        return None

    def _bind(self, service: str, lookup: Callable[[str], Handler | None]) -> None:
        bound = bind(service, lookup)
        self._runtime.add(bound.values())
        for path, method in bound.items():
            raw = self._try(path) if method.phase is Phase.TRY else self._settle(method.phase, path)
            self._actions[path] = _raw(raw)

    def _try(self, path: str) -> RawHandler:
        runtime = self._runtime

        async def handle(request: bytes, context: Context) -> bytes:
            metadata = tuple(context.invocation_metadata() or ())
            with self._tracing.served(path, TraceParent.of(metadata), Tags.of(metadata)) as span:
                answer = await runtime.attempt(
                    path,
                    request,
                    metadata,
                    timeout=context.time_remaining(),
                    peer=context.peer(),
                    transport=context,
                )
                span.ended(answer.code, answer.message)
            if answer.code is not grpc.StatusCode.OK:
                await context.abort(answer.code, answer.message, answer.trailers + _details(answer.details))
            if answer.trailers:
                context.set_trailing_metadata(answer.trailers)
            return answer.reply

        return handle

    def _settle(self, phase: Phase, path: str) -> RawHandler:
        runtime = self._runtime

        async def handle(request: bytes, context: Context) -> bytes:
            metadata = tuple(context.invocation_metadata() or ())
            with self._tracing.served(path, TraceParent.of(metadata), Tags.of(metadata)) as span:
                outcome, details = await runtime.call_settling(
                    phase,
                    path,
                    request,
                    metadata,
                    timeout=context.time_remaining(),
                    peer=context.peer(),
                    transport=context,
                )
                span.ended(wire.STATUS_BY_NUMBER[outcome.code], outcome.message)
            if outcome.code:
                await context.abort(wire.STATUS_BY_NUMBER[outcome.code], outcome.message, _details(details))
            return b""  # the reply of a Confirm or Cancel is ignored, and no bytes are a message of any type

        return handle


def _details(details: bytes) -> Trailers:
    return ((wire.STATUS_DETAILS, details),) if details else ()


def _found(handlers: grpc.GenericRpcHandler, path: str) -> Handler | None:
    return handlers.service(_Details(path))


def _raw(handler: RawHandler) -> Handler:
    return grpc.unary_unary_rpc_method_handler(handler)


def _phase_of(metadata: Any) -> Phase | None:
    """Which phase a manager's call is; one that cannot be read counts as a Try, whose answer says what is missing."""
    phase, branch = Phase.TRY, False
    for key, value in metadata or ():
        if key == wire.PHASE and value in ("confirm", "cancel"):
            phase = Phase(value)
        elif key == wire.GID:
            branch = True
    return phase if branch else None
