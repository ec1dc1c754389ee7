"""A `grpc.aio.Channel` on which an ordinary generated stub's Try is a branch of a transaction.

The law: building a stub never fails, since stubs make all their methods at once; calling one that is no Try does, and
says why. What a call then does is the subclass's affair: `tcc.plan` notes it, a transaction's channel sends it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, Self, TypeVar, cast

import grpc
import grpc.aio

from tcc import wire
from tcc.actions import Action, action_of, actions_of
from tcc.client._limits import check_timeout
from tcc.errors import UsageError
from tcc.ids import problem_with_id
from tcc.streams import varint
from tcc.v1 import manager_pb2, transaction_pb2

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")

MetadataArgument = grpc.aio.Metadata | Sequence[tuple[str, str | bytes]]


class Branch(Generic[ReplyT]):
    """One Try as the client's code asked for it.

    Attributes:
        action: the Try's three methods.
        participant: the participant's name.
        request: the Try's request message, serialised once.
        step: the branch's id; "" where the call named none.
        timeout: how long the Try may take, in seconds; None: until the transaction's deadline.
        metadata: for the Try.
    """

    __slots__ = ("_deserialize", "action", "metadata", "participant", "request", "step", "timeout")

    def __init__(
        self,
        action: Action,
        participant: str,
        request: bytes,
        step: str,
        timeout: float | None,
        metadata: tuple[tuple[str, str | bytes], ...],
        deserialize: Callable[[bytes], ReplyT],
    ) -> None:
        self.action = action
        self.participant = participant
        self.request = request
        self.step = step
        self.timeout = timeout
        self.metadata = metadata
        self._deserialize = deserialize

    def reply(self, data: bytes) -> ReplyT:
        """The Try's reply message from its bytes."""
        return self._deserialize(data)

    def serialised(self) -> bytes:
        """The bytes of a `PlannedBranch` for the manager: the same for the same branch, always."""
        request = self.request
        told = _constant(self.action, self.participant) + _REQUEST + varint(len(request)) + request
        return told + self._particulars() if self.step or self.timeout is not None or self.metadata else told

    def _particulars(self) -> bytes:
        """What most branches have not."""
        message = manager_pb2.PlannedBranch(step=self.step)
        if self.timeout is not None:
            message.try_timeout.FromNanoseconds(round(self.timeout * 1e9))
        for key, value in self.metadata:
            message.metadata.add(key=key, value=value if isinstance(value, bytes) else value.encode())
        return message.SerializeToString()


_REQUEST: Final = varint(manager_pb2.PlannedBranch.DESCRIPTOR.fields_by_name["request"].number << 3 | 2)


@lru_cache(4096)
def _constant(action: Action, participant: str) -> bytes:
    """What is the same for all branches of an action."""
    methods = transaction_pb2.Methods(
        try_method=action.try_method, confirm_method=action.confirm_method, cancel_method=action.cancel_method
    )
    return manager_pb2.PlannedBranch(participant=participant, methods=methods).SerializeToString()


class BranchChannel(grpc.aio.Channel):
    """Looks like a connection to participants; gives every Try to `_start` as a Branch."""

    def __init__(self, participant: str | None = None) -> None:
        self._participant = participant

    def participant(self, name: str) -> Self:
        """The same channel, addressing the participant that the manager knows by this name.

        Without it a branch goes to the participant that is named like the gRPC service.

            bank_a = AccountsStub(tcc.plan.participant("bank-a"))

        Raises:
            UsageError: no participant can have that name.
        """
        if problem := problem_with_id("participant", name):
            raise UsageError(problem)
        return self._named(name)

    @abstractmethod
    def _named(self, participant: str) -> Self: ...

    @abstractmethod
    def _start(self, branch: Branch[ReplyT]) -> grpc.aio.UnaryUnaryCall[Any, ReplyT]: ...

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[RequestT], bytes] | None = None,
        response_deserializer: Callable[[bytes], ReplyT] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.UnaryUnaryMultiCallable[RequestT, ReplyT]:
        """One method of a stub; `_registered_method` is what generated code passes, and has no meaning here."""
        return _BranchMethod(self, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[RequestT], bytes] | None = None,
        response_deserializer: Callable[[bytes], ReplyT] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.UnaryStreamMultiCallable[RequestT, ReplyT]:
        """A streaming method: there, so that the stub can be built; calling it is an error."""
        return cast("grpc.aio.UnaryStreamMultiCallable[RequestT, ReplyT]", _StreamingMethod(method))

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[RequestT], bytes] | None = None,
        response_deserializer: Callable[[bytes], ReplyT] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.StreamUnaryMultiCallable[RequestT, ReplyT]:
        """A streaming method: there, so that the stub can be built; calling it is an error."""
        return cast("grpc.aio.StreamUnaryMultiCallable[RequestT, ReplyT]", _StreamingMethod(method))

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[RequestT], bytes] | None = None,
        response_deserializer: Callable[[bytes], ReplyT] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.StreamStreamMultiCallable[RequestT, ReplyT]:
        """A streaming method: there, so that the stub can be built; calling it is an error."""
        return cast("grpc.aio.StreamStreamMultiCallable[RequestT, ReplyT]", _StreamingMethod(method))

    async def __aenter__(self) -> Self:
        """Nothing to open."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Nothing to close."""

    async def close(self, grace: float | None = None) -> None:
        """Nothing to close: the connection is the Manager's."""

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Always READY: the connection is the Manager's."""
        return grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Refused: there is no connection to watch."""
        raise UsageError("this channel has no connection of its own: it is the Manager that is connected")

    async def channel_ready(self) -> None:
        """At once."""


class _BranchMethod(grpc.aio.UnaryUnaryMultiCallable[RequestT, ReplyT]):
    def __init__(
        self,
        channel: BranchChannel,
        path: str,
        serialize: Callable[[RequestT], bytes] | None,
        deserialize: Callable[[bytes], ReplyT] | None,
    ) -> None:
        self._channel = channel
        self._path = path
        self._serialize = serialize
        self._deserialize = deserialize

    def __call__(
        self,
        request: RequestT,
        *,
        timeout: float | None = None,
        metadata: MetadataArgument | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.UnaryUnaryCall[RequestT, ReplyT]:
        path = self._path
        action = action_of(path)
        if action is None:
            raise UsageError(_why_no_try(path))
        if credentials is not None or compression is not None:
            raise UsageError(f"{path}: the manager makes this call, so credentials= and compression= cannot be given")
        if timeout is not None:
            check_timeout(timeout, path)
        if self._serialize is None or self._deserialize is None:
            raise UsageError(f"{path} has no serialiser: use the generated stub")
        step, passed_on = _split(path, metadata) if metadata else ("", ())
        branch = Branch(
            action,
            self._channel._participant or action.service,
            self._serialize(request),
            step,
            timeout,
            passed_on,
            self._deserialize,
        )
        return self._channel._start(branch)


def _split(path: str, metadata: MetadataArgument) -> tuple[str, tuple[tuple[str, str | bytes], ...]]:
    """The step that the metadata names, and the rest."""
    step = ""
    rest: list[tuple[str, str | bytes]] = []
    for key, value in metadata:
        if key == wire.STEP:
            step = value if isinstance(value, str) else value.decode("ascii", "replace")
            if problem := problem_with_id("step", step):
                raise UsageError(f"{path}: {problem}")
        elif key.startswith(("tcc-", "grpc-")):
            raise UsageError(f"{path}: metadata {key!r} is reserved; of `tcc-` only {wire.STEP!r} can be given")
        else:
            rest.append((key, value))
    return step, tuple(rest)


def _why_no_try(path: str) -> str:
    service, _, name = path.removeprefix("/").rpartition("/")
    for action in actions_of(service):
        if path in (action.confirm_method, action.cancel_method):
            return f"{path} is sent by the manager once the transaction is decided: call {action.try_method}"
    return (
        f"{path} is no Try, so it cannot be part of a transaction: call {name} through a stub on a channel to its "
        "server, or give it the option (tcc.v1.action) in its proto"
    )


class _StreamingMethod:
    """Of any streaming kind. No subclass of gRPC's, which older versions cannot subscript at run time."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, *args: object, **options: object) -> NoReturn:
        raise UsageError(f"{self._path} is streaming: only unary methods can be part of a transaction")
