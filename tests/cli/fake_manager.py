"""A manager on loopback that answers from a table, for tests of the commands that call one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from tcc.v1 import manager_pb2, manager_pb2_grpc, transaction_pb2 as v1

BEGUN = 1_780_000_000_000
"""When every transaction of these tests began, in unix milliseconds."""


def at(milliseconds: float) -> Timestamp:
    """A moment, in milliseconds after the begin."""
    moment = Timestamp()
    moment.FromNanoseconds(int((BEGUN + milliseconds) * 1_000_000))
    return moment


def methods(action: str) -> v1.Methods:
    """The methods of an action of a bank."""
    path = "/bank.v1.Bank/"
    return v1.Methods(
        try_method=f"{path}Try{action}", confirm_method=f"{path}Confirm{action}", cancel_method=f"{path}Cancel{action}"
    )


def transaction(gid: str, state: v1.State.ValueType = v1.STATE_TRYING, **fields: Any) -> v1.Transaction:
    """A transaction that began at BEGUN."""
    return v1.Transaction(
        namespace="default", gid=gid, state=state, begun_at=at(0), deadline=at(30_000), version=1, **fields
    )


@dataclass
class FakeManager(manager_pb2_grpc.TransactionManagerServicer):
    """Answers Get and List from `transactions`, and each Watch with the next list of `watched`."""

    transactions: Mapping[str, v1.Transaction] = field(default_factory=dict)
    watched: list[list[v1.Transaction | grpc.StatusCode]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    page: int = 1000
    fails: grpc.StatusCode | None = None
    address: str = ""

    def Get(self, request: manager_pb2.GetRequest, context: grpc.ServicerContext) -> manager_pb2.GetResponse:
        self.requests.append(request)
        if self.fails is not None:
            context.abort(self.fails, "as the test wants it")
        if request.gid not in self.transactions:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no transaction {request.gid}")
        return manager_pb2.GetResponse(transaction=self.transactions[request.gid])

    def List(self, request: manager_pb2.ListRequest, context: grpc.ServicerContext) -> manager_pb2.ListResponse:
        copied = manager_pb2.ListRequest()
        copied.CopyFrom(request)
        self.requests.append(copied)
        start = int(request.page_token or 0)
        end = start + min(self.page, request.page_size)
        found = list(self.transactions.values())
        token = str(end) if end < len(found) else ""
        return manager_pb2.ListResponse(transactions=found[start:end], next_page_token=token)

    def Watch(
        self, request: manager_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[manager_pb2.WatchResponse]:
        self.requests.append(request)
        if not self.watched:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no transaction {request.gid}")
        for step in self.watched.pop(0):
            if isinstance(step, grpc.StatusCode):
                context.abort(step, "as the test wants it")
            yield manager_pb2.WatchResponse(transaction=step)


@contextmanager
def serving(fake: FakeManager) -> Iterator[FakeManager]:
    """The fake at `fake.address` while the block runs."""
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        manager_pb2_grpc.add_TransactionManagerServicer_to_server(fake, server)
        fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield fake
        finally:
            server.stop(None).wait()
