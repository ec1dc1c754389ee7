"""`tcc tx list`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from tcc.v1 import manager_pb2, manager_pb2_grpc, transaction_pb2
from tcc_server.cli._manager import CALL_TIMEOUT, as_document, connected
from tcc_server.cli._options import DEFAULT_MANAGER, Json, ManagerAddress
from tcc_server.cli._output import console, print_json
from tcc_server.cli._render import render_list

_PAGE = 1000

StateName = Literal["TRYING", "CONFIRMING", "CONFIRMED", "CANCELLING", "CANCELLED", "MIXED"]


def tx_list(
    *,
    state: Annotated[list[StateName] | None, Parameter(consume_multiple=True)] = None,
    attention: bool = False,
    name: str = "",
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 50,
    manager: ManagerAddress = DEFAULT_MANAGER,
    json: Json = False,
) -> None:
    """List transactions, newest first.

    Parameters
    ----------
    state
        Only these states.
    attention
        Only those that need a person.
    name
        Only this name.
    limit
        At most this many.
    """
    wanted = manager_pb2.ListRequest(
        states=[transaction_pb2.State.Value(f"STATE_{one}") for one in state or ()],
        attention=True if attention else None,
        name=name,
        page_size=min(limit, _PAGE),
    )
    with connected(manager) as stub:
        found = list(_pages(stub, wanted, limit))
    if json:
        for transaction in found:
            print_json(as_document(transaction))
    else:
        console().print(render_list(found))


def _pages(
    stub: manager_pb2_grpc.TransactionManagerStub, wanted: manager_pb2.ListRequest, limit: int
) -> Iterator[transaction_pb2.Transaction]:
    left = limit
    while True:
        page = stub.List(wanted, timeout=CALL_TIMEOUT)
        yield from page.transactions[:left]
        left -= len(page.transactions)
        if left <= 0 or not page.next_page_token:
            return
        wanted.page_token = page.next_page_token
