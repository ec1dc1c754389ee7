"""Requests to the manager as other languages send them, and each of the ways to get one wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from services.accounts.v1 import accounts_pb2
from tcc.v1 import manager_pb2 as pb, manager_pb2_grpc, transaction_pb2
from tests.spine.installation import Installation

Act = Callable[[Installation], Awaitable[object]]
SERVICE = "/services.accounts.v1.Accounts"
REQUEST = accounts_pb2.DebitRequest(account="ann", amount=1).SerializeToString()


def branch(step: str = "", participant: str = "bank-a", **fields: Any) -> pb.PlannedBranch:
    """A debit."""
    methods = transaction_pb2.Methods(
        try_method=f"{SERVICE}/TryDebit",
        confirm_method=f"{SERVICE}/ConfirmDebit",
        cancel_method=f"{SERVICE}/CancelDebit",
    )
    defaults: dict[str, Any] = {"methods": methods, "request": REQUEST}
    return pb.PlannedBranch(step=step, participant=participant, **{**defaults, **fields})


def methods(try_method: str, confirm_method: str = "ConfirmDebit", cancel_method: str = "CancelDebit") -> Any:
    """Methods of accounts, or full paths."""
    paths = [name if "/" in name else f"{SERVICE}/{name}" for name in (try_method, confirm_method, cancel_method)]
    return transaction_pb2.Methods(try_method=paths[0], confirm_method=paths[1], cancel_method=paths[2])


def execute(*branches: pb.PlannedBranch, gid: str = "bad", **fields: Any) -> Act:
    """An Execute with these branches."""
    return call("Execute", pb.ExecuteRequest(gid=gid, branches=branches, **fields))


def call(method: str, request: Any) -> Act:
    """A call of the manager."""

    async def act(installation: Installation) -> object:
        async with grpc.aio.insecure_channel(installation.address) as channel:
            stub: Any = manager_pb2_grpc.TransactionManagerStub(channel)
            answer = getattr(stub, method)(request, timeout=20)
            return [item async for item in answer] if method == "Watch" else await answer

    return act


def try_call(gid: str, planned: pb.PlannedBranch) -> Act:
    """An interactive Try."""
    return call("Try", pb.TryRequest(gid=gid, branch=planned))
