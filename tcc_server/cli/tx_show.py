"""`tcc tx show`."""

from __future__ import annotations

from tcc.v1 import manager_pb2
from tcc_server.cli._manager import CALL_TIMEOUT, as_document, connected
from tcc_server.cli._options import DEFAULT_MANAGER, Gid, Json, ManagerAddress, checked_gid
from tcc_server.cli._output import console, print_json
from tcc_server.cli._render import render_timeline


def tx_show(gid: Gid, /, *, manager: ManagerAddress = DEFAULT_MANAGER, json: Json = False) -> None:
    """Show one transaction."""
    request = manager_pb2.GetRequest(gid=checked_gid(gid), with_payloads=json)
    with connected(manager) as stub:
        transaction = stub.Get(request, timeout=CALL_TIMEOUT).transaction
    if json:
        print_json(as_document(transaction))
    else:
        console().print(render_timeline(transaction))
