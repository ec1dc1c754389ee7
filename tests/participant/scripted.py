"""A service whose handlers do what a test says, and the ways in which a manager's calls reach it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty

import tcc
from services.accounts.v1 import accounts_pb2 as pb, accounts_pb2_grpc
from tcc import wire
from tcc.fence import Fence, MemoryFence, Phase
from tcc.participant import ParticipantServer, TryAnswer
from tcc.v1 import participant_pb2, transaction_pb2

SERVICE = "/services.accounts.v1.Accounts/"
PATHS = {
    Phase.TRY: SERVICE + "TryDebit",
    Phase.CONFIRM: SERVICE + "ConfirmDebit",
    Phase.CANCEL: SERVICE + "CancelDebit",
}
METHODS = transaction_pb2.Methods(
    try_method=PATHS[Phase.TRY], confirm_method=PATHS[Phase.CONFIRM], cancel_method=PATHS[Phase.CANCEL]
)
REQUEST = pb.DebitRequest(account="a", amount=5)
REPLY = pb.DebitReply(reservation_id="r-1", available=95)

Script: TypeAlias = Callable[[pb.DebitRequest, Any], Awaitable[Any]]


async def reserve(request: pb.DebitRequest, context: Any) -> pb.DebitReply:
    return REPLY


async def settle(request: pb.DebitRequest, context: Any) -> Empty:
    return Empty()


class Scripted(accounts_pb2_grpc.AccountsServicer):
    """Accounts whose debit does what its scripts say; counts runs by phase."""

    def __init__(self) -> None:
        self.scripts: dict[Phase, Script] = {Phase.TRY: reserve, Phase.CONFIRM: settle, Phase.CANCEL: settle}
        self.runs = dict.fromkeys(Phase, 0)

    async def _play(self, phase: Phase, request: pb.DebitRequest, context: Any) -> Any:
        self.runs[phase] += 1
        return await self.scripts[phase](request, context)

    async def TryDebit(self, request: pb.DebitRequest, context: Any) -> pb.DebitReply:
        reply: pb.DebitReply = await self._play(Phase.TRY, request, context)
        return reply

    async def ConfirmDebit(self, request: pb.DebitRequest, context: Any) -> Empty:
        reply: Empty = await self._play(Phase.CONFIRM, request, context)
        return reply

    async def CancelDebit(self, request: pb.DebitRequest, context: Any) -> Empty:
        reply: Empty = await self._play(Phase.CANCEL, request, context)
        return reply

    async def TryCredit(self, request: pb.CreditRequest, context: Any) -> pb.CreditReply:
        return pb.CreditReply()

    async def ConfirmCredit(self, request: pb.CreditRequest, context: Any) -> Empty:
        return Empty()

    async def CancelCredit(self, request: pb.CreditRequest, context: Any) -> Empty:
        return Empty()

    async def OpenAccount(self, request: pb.OpenAccountRequest, context: Any) -> pb.Account:
        return pb.Account(account=request.account)

    def GetAccount(self, request: pb.GetAccountRequest, context: Any) -> pb.Account:  # sync: it is no action's method
        return pb.Account(account=request.account, available=7)

    async def GetTotals(self, request: pb.GetTotalsRequest, context: Any) -> pb.Totals:
        return pb.Totals()


def make_server(
    scripted: accounts_pb2_grpc.AccountsServicer, fence: Fence | None = None, **options: Any
) -> ParticipantServer:
    server = tcc.ParticipantServer("127.0.0.1:0", fence=fence or MemoryFence(), **options)
    accounts_pb2_grpc.add_AccountsServicer_to_server(scripted, server)
    return server


@dataclass
class Branch:
    """What a manager says of a branch."""

    gid: str = "g-1"
    step: str = "0"
    request: bytes = field(default_factory=REQUEST.SerializeToString)
    request_hash: bytes = b"\x0a\x0b"
    methods: transaction_pb2.Methods = field(default_factory=lambda: METHODS)
    deadline: float = field(default_factory=lambda: time.time() + 30)
    extra: tuple[tuple[str, str | bytes], ...] = ()

    def metadata(self, phase: Phase, attempt: int) -> tuple[tuple[str, str | bytes], ...]:
        entries: list[tuple[str, str | bytes]] = [
            (wire.NAMESPACE, "default"),
            (wire.GID, self.gid),
            (wire.BRANCH, self.step),
            (wire.PHASE, phase.value),
            (wire.ATTEMPT, str(attempt)),
            (wire.REQUEST_HASH, self.request_hash.hex()),
        ]
        if phase is Phase.TRY:
            entries += [
                (wire.DEADLINE, str(int(self.deadline * 1000))),
                (wire.CONFIRM_METHOD, self.methods.confirm_method),
                (wire.CANCEL_METHOD, self.methods.cancel_method),
            ]
        return (*entries, *self.extra)

    def command(self, phase: Phase, attempt: int) -> participant_pb2.Command:
        return participant_pb2.Command(
            namespace="default",
            gid=self.gid,
            branch=self.step,
            phase=transaction_pb2.PHASE_CONFIRM if phase is Phase.CONFIRM else transaction_pb2.PHASE_CANCEL,
            methods=self.methods,
            request=self.request,
            request_hash=self.request_hash,
            attempt=attempt,
        )


@dataclass(frozen=True)
class Told:
    """A command's outcome, whichever way it was told."""

    kind: str
    code: grpc.StatusCode | None = None
    text: str = ""
    hint: float | None = None
    state: str = ""


class Direct:
    """The way of couriers and in-process managers: runtime calls, no port."""

    def __init__(self, server: ParticipantServer) -> None:
        self._runtime = server.runtime

    async def attempt(self, branch: Branch, attempt: int = 1, timeout: float | None = None) -> TryAnswer:
        return await self._runtime.attempt(
            branch.methods.try_method, branch.request, branch.metadata(Phase.TRY, attempt), timeout=timeout
        )

    async def settle(self, branch: Branch, phase: Phase, attempt: int = 1, timeout: float | None = None) -> Told:
        outcome = await self._runtime.command(branch.command(phase, attempt), timeout=timeout)
        kind = transaction_pb2.OutcomeKind.Name(outcome.kind).removeprefix("OUTCOME_KIND_")
        after = outcome.retry_after
        return Told(
            kind,
            wire.STATUS_BY_NUMBER[outcome.code] if kind == "RETRY" else None,
            outcome.message,
            after.seconds + after.nanos / 1e9 if outcome.HasField("retry_after") else None,
            outcome.fence_state,
        )


class Grpc:
    """The way of any language: the three methods themselves."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def _method(self, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        return self._channel.unary_unary(path)

    async def attempt(self, branch: Branch, attempt: int = 1, timeout: float | None = None) -> TryAnswer:
        call = self._method(branch.methods.try_method)(
            branch.request, metadata=branch.metadata(Phase.TRY, attempt), timeout=timeout
        )
        try:
            reply = await call
        except grpc.aio.AioRpcError as error:
            trailers = tuple(error.trailing_metadata() or ())
            return TryAnswer(error.code(), error.details() or "", details_in(trailers), without_details(trailers))
        return TryAnswer(grpc.StatusCode.OK, trailers=tuple(await call.trailing_metadata()), reply=reply)

    async def settle(self, branch: Branch, phase: Phase, attempt: int = 1, timeout: float | None = None) -> Told:
        path = branch.methods.confirm_method if phase is Phase.CONFIRM else branch.methods.cancel_method
        try:
            await self._method(path)(branch.request, metadata=branch.metadata(phase, attempt), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            details = details_in(tuple(error.trailing_metadata() or ()))
            info, text, hint = wire.error_info(details), error.details() or "", wire.retry_delay(details)
            if info is not None and info.reason in ("BUSY", "NO_TRY", "CONTRADICTED"):
                return Told(info.reason, None, text, hint, info.metadata.get("fence_state", ""))
            return Told("RETRY", error.code(), text, hint)
        return Told("DONE")


Way: TypeAlias = Direct | Grpc


def details_in(trailers: tuple[Any, ...]) -> bytes:
    return next((bytes(value) for key, value in trailers if key == wire.STATUS_DETAILS), b"")


def without_details(trailers: tuple[Any, ...]) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key, value) for key, value in trailers if key != wire.STATUS_DETAILS)


def is_marked(answer: TryAnswer) -> bool:
    return (wire.REFUSED, "1") in answer.trailers


def reason_of(answer: TryAnswer) -> str:
    info = wire.error_info(answer.details)
    return "" if info is None else str(info.reason)
