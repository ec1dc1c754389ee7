"""Which handler serves which method of which action: read from what the generated `add_..._to_server` registers.

Everything that would only fail when money is under way is refused here, when the server is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from tcc.actions import Action, actions_of
from tcc.errors import UsageError
from tcc.fence import Phase
from tcc.participant._batchable import is_batchable

# In quotes: gRPC's classes are generic for type checkers only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Lookup: TypeAlias = "Callable[[str], Handler | None]"


@dataclass(frozen=True, slots=True)
class BoundMethod:
    """One method of an action, ready to run.

    Attributes:
        action: the action.
        phase: the method's.
        path: `/package.Service/Method`.
        run: the servicer's coroutine function.
        decode: request from bytes.
        encode: reply to bytes; of a Confirm or Cancel the reply is ignored, and these are no bytes.
        batchable: it may share its database transaction with others.
    """

    action: Action
    phase: Phase
    path: str
    run: Callable[[Any, Any], Awaitable[Any]]
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    batchable: bool


def bind(service: str, lookup: Lookup) -> dict[str, BoundMethod]:
    """The methods of all actions of a service, by path; empty where it has none.

    Args:
        service: full name of the gRPC service.
        lookup: what is registered for a path.

    Raises:
        UsageError: the proto's option is wrong, or a method has no handler, a sync one or a streaming one.
    """
    bound: dict[str, BoundMethod] = {}
    for action in actions_of(service):
        for phase, path in zip(Phase, (action.try_method, action.confirm_method, action.cancel_method), strict=True):
            bound[path] = _bind(action, phase, path, lookup(path))
    return bound


def _bind(action: Action, phase: Phase, path: str, handler: Handler | None) -> BoundMethod:
    if handler is None:
        raise UsageError(f"{path}, the {phase} of an action, has no handler: register the whole service")
    run = handler.unary_unary
    if handler.request_streaming or handler.response_streaming or run is None:
        raise UsageError(f"{path} has a streaming handler: Try, Confirm and Cancel are unary")
    if not _is_coroutine_function(run):
        name = getattr(run, "__qualname__", repr(run))
        if getattr(run, "__module__", "").endswith("_pb2_grpc"):
            servicer = type(getattr(run, "__self__", run)).__name__
            raise UsageError(
                f"{servicer} does not implement {path}, the {phase} of an action: write `async def` for it"
            )
        raise UsageError(f"{name}, the handler of {path}, is not a coroutine function: write `async def`")
    if handler.request_deserializer is None or handler.response_serializer is None:
        raise UsageError(f"{path} is registered without its messages: use the generated add_..._to_server")
    encode = _Encoder(path).encode if phase is Phase.TRY else _ignore
    return BoundMethod(action, phase, path, run, handler.request_deserializer, encode, is_batchable(run))


class _Encoder:
    """Serialises the replies of one method, and of no other message.

    Generated serializers take any message; another method's would be stored, and read as garbage ever after.
    """

    def __init__(self, path: str) -> None:
        service, _, method = path[1:].rpartition("/")
        self._path = path
        self._reply = descriptor_pool.Default().FindServiceByName(service).methods_by_name[method].output_type
        self._known: type[Message] | None = None

    def encode(self, answer: object) -> bytes:
        if type(answer) is not self._known:  # once
            if not isinstance(answer, Message) or answer.DESCRIPTOR.full_name != self._reply.full_name:
                raise TypeError(f"{self._path} returned {type(answer).__name__}, not a {self._reply.full_name}")
            self._known = type(answer)
        return answer.SerializeToString()


def _ignore(answer: object) -> bytes:
    return b""


def _is_coroutine_function(run: Callable[..., object]) -> bool:
    if inspect.isasyncgenfunction(run):
        return False
    return inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(getattr(run, "__call__", None))  # noqa: B004  a servicer's method may be an object
