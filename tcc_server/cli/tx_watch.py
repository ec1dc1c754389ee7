"""`tcc tx watch`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated

import grpc
from cyclopts import Parameter, validators

from tcc.v1 import manager_pb2, manager_pb2_grpc, transaction_pb2
from tcc_server.cli._exits import CommandError, Exit
from tcc_server.cli._manager import as_document, connected
from tcc_server.cli._options import DEFAULT_MANAGER, Gid, Json, ManagerAddress, checked_gid
from tcc_server.cli._output import console, print_json
from tcc_server.cli._render import render_state

_ENDS = {
    transaction_pb2.STATE_CONFIRMED: Exit.OK,
    transaction_pb2.STATE_CANCELLED: Exit.CANCELLED,
    transaction_pb2.STATE_MIXED: Exit.MIXED,
}
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_PATIENCE = 30.0
"""Seconds that a manager may be away once it has answered."""
_PAUSE = 0.2


def tx_watch(
    gid: Gid,
    /,
    *,
    timeout: Annotated[float | None, Parameter(validator=validators.Number(gt=0))] = None,
    manager: ManagerAddress = DEFAULT_MANAGER,
    json: Json = False,
) -> Exit:
    """Follow one transaction until it has ended.

    Parameters
    ----------
    timeout
        Give up after this many seconds, with exit code 1. Default: never.
    """
    out = console()
    ends = None if timeout is None else time.monotonic() + timeout
    with connected(manager) as stub:
        for transaction in _states(stub, checked_gid(gid), manager, ends):
            if json:
                print_json(as_document(transaction))
            else:
                out.print(render_state(transaction))
            if transaction.state in _ENDS:
                return _ENDS[transaction.state]
    raise CommandError(f"the manager stopped telling of {gid} before it had ended: try again")


def _states(
    stub: manager_pb2_grpc.TransactionManagerStub, gid: str, address: str, ends: float | None
) -> Iterator[transaction_pb2.Transaction]:
    """Every state that the manager tells, across its restarts."""
    request = manager_pb2.WatchRequest(gid=gid)
    gone_since: float | None = None
    while True:
        left = None if ends is None else max(0.0, ends - time.monotonic())
        try:
            for answer in stub.Watch(request, timeout=left):
                gone_since = None
                request.after_version = answer.transaction.version
                yield answer.transaction
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and ends is not None:
                raise CommandError(f"{gid} has not ended within the timeout") from error
            if error.code() not in _LOST or not request.after_version:
                raise
            if gone_since is None:
                gone_since = time.monotonic()
                print(f"tcc: lost the manager at {address}, waiting for it", file=sys.stderr)
            elif time.monotonic() - gone_since > _PATIENCE:
                raise
            time.sleep(_PAUSE)
        else:
            return
