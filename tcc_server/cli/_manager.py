"""Calls of the manager's public API, with its errors as one line and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from tcc.v1 import manager_pb2_grpc, transaction_pb2
from tcc_server.cli._exits import CommandError, Exit
from tcc_server.cli._output import printable

CALL_TIMEOUT = 10.0
"""Seconds for a call that is not a stream."""

_EXITS = {
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: Exit.USAGE,
    grpc.StatusCode.UNAVAILABLE: Exit.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Exit.UNREACHABLE,
}


@contextmanager
def connected(address: str) -> Iterator[manager_pb2_grpc.TransactionManagerStub]:
    """The manager at an address, HOST:PORT. Failed calls leave the block as CommandError."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            yield manager_pb2_grpc.TransactionManagerStub(channel)
        except grpc.RpcError as error:
            raise failure(error, address) from error


def failure(error: grpc.RpcError, address: str) -> CommandError:
    """A failed call, for people and scripts."""
    status = error.code()
    exit_code = _EXITS.get(status, Exit.FAILED)
    details = printable(error.details() or "")
    if exit_code is Exit.UNREACHABLE:
        return CommandError(
            f"no manager answers at {address} ({status.name}: {details}); start one with 'tcc dev', "
            "or name another with --manager or TCC_MANAGER",
            exit_code,
        )
    return CommandError(details if exit_code is Exit.NOT_FOUND else f"{status.name}: {details}", exit_code)


def as_document(transaction: transaction_pb2.Transaction) -> dict[str, Any]:
    """A transaction as a JSON document: the proto's field names, enums by name, bytes in base64, times in UTC."""
    document = MessageToDict(transaction, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return dict(document)
