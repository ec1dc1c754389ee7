"""Runs a module as `python -m` does, as docs/first-participant.md advises (uvloop, a garbage collector that looks less
often), and counts what it does while it runs.

    python -m benchmarks.counted FILE MODULE [ARGUMENT ...]

The counts stand in FILE (`benchmarks.counts.Tally`):

- RPCs, where they are called, so one between two counted processes is counted once; and messages on gRPC streams, at
  the calling end, both ways.
- SQLite's commits of transactions that wrote any row, and how many rows: with synchronous=FULL each such commit is one
  fsync of the write-ahead log. Checkpoints, which sync too, are not in it.
- Lists: those of every `tcc.batching.Batcher`, all of them, and one in `_SAMPLED` of those that leave on gRPC streams
  and in AMQP messages, which have to be looked through for it.

What is counted twice (a call repeated, a row written again) has happened twice.
"""

from __future__ import annotations

import gc
import importlib
import logging
import runpy
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import uvloop

from benchmarks.counts import COMMITS, MESSAGES, ROWS, RPCS, Tally

_KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
_SAMPLED = 17
"""A prime, so that what takes turns on a connection is looked at in turn."""


def main(file: str, module: str, *arguments: str) -> None:
    """Count, and be that module."""
    tally = Tally(file)
    _count_calls(tally)
    _count_rows(tally)
    _count_lists(tally)
    uvloop.install()
    gc.set_threshold(50_000, 50, 100)
    logging.getLogger("tcc").setLevel(logging.WARNING)  # that it was told to end is no news here
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


# grpc.aio and aio-pika have no public place to count at that would cost nothing.


def _count_calls(tally: Tally) -> None:
    numbers = tally.numbers
    channel = importlib.import_module("grpc.aio._channel")
    for kind in _KINDS:
        method = getattr(channel, f"{kind}MultiCallable")
        method.__call__ = _calling(method.__call__, numbers)
    call = importlib.import_module("grpc.aio._call")
    eof = importlib.import_module("grpc._cython.cygrpc").EOF
    write, read = call._StreamRequestMixin._write, call._StreamResponseMixin._read

    async def counted_write(self: Any, request: Any) -> None:
        numbers[MESSAGES] += 1
        if numbers[MESSAGES] % _SAMPLED == 0:
            _add(tally, self.benchmark_name, items_in(request))
        await write(self, request)

    async def counted_read(self: Any) -> Any:
        message = await read(self)
        if message is not eof:
            numbers[MESSAGES] += 1
            if numbers[MESSAGES] % _SAMPLED == 0:
                _add(tally, f"{self.benchmark_name} answers", items_in(message))
        return message

    call._StreamRequestMixin._write = counted_write
    call._StreamResponseMixin._read = counted_read


def _calling(call: Callable[..., Any], numbers: memoryview[int]) -> Callable[..., Any]:
    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        numbers[RPCS] += 1
        made = call(self, *arguments, **options)
        made.benchmark_name = self._method.decode().rpartition("/")[2]
        return made

    return counted


def _count_rows(tally: Tally) -> None:
    class Cursor(sqlite3.Cursor):
        def execute(self, statement: str, *arguments: Any) -> Any:
            done = super().execute(statement, *arguments)
            if statement.startswith("COMMIT"):
                self.connection.ended(committed=True)  # type: ignore[attr-defined]  # its connections are those below
            elif statement.startswith("ROLLBACK") and " TO " not in statement:
                self.connection.ended(committed=False)  # type: ignore[attr-defined]  # as above
            return done

    class Connection(sqlite3.Connection):
        changes_before = 0

        def cursor(self, *arguments: Any, **options: Any) -> Any:
            return super().cursor(*arguments, **{"factory": Cursor, **options})

        def execute(self, statement: str, *arguments: Any) -> Any:
            return self.cursor().execute(statement, *arguments)

        def commit(self) -> None:
            super().commit()
            self.ended(committed=True)

        def rollback(self) -> None:
            super().rollback()
            self.ended(committed=False)

        def ended(self, *, committed: bool) -> None:
            rows = self.total_changes - self.changes_before
            self.changes_before += rows
            if committed and rows:
                tally.numbers[ROWS] += rows
                tally.numbers[COMMITS] += 1

    for module in (sqlite3, sqlite3.dbapi2):
        module.connect = partial(sqlite3.connect, factory=Connection)  # type: ignore[attr-defined]  # on purpose
        module.Cursor = Cursor  # type: ignore[attr-defined]  # on purpose


def _count_lists(tally: Tally) -> None:
    batching = importlib.import_module("tcc.batching")
    made = batching.Batcher.__init__

    def counted_init(self: Any, send: Callable[[Sequence[Any]], Awaitable[Any]], **options: Any) -> None:
        package = _package_of(send)
        place = tally.hop(package)
        # What a lock is asked comes in bunches already, and the size of one is its keys; elsewhere sizes are bytes.
        size_of = options["size_of"] if package == "lock batches" else None

        async def counted(items: Sequence[Any]) -> Any:
            tally.numbers[place] += 1
            tally.numbers[place + 1] += len(items) if size_of is None else sum(map(size_of, items))
            return await send(items)

        made(self, counted, **options)

    batching.Batcher.__init__ = counted_init
    try:
        exchange = importlib.import_module("aio_pika.exchange").Exchange
    except ImportError:  # a client needs no AMQP
        return
    publish = exchange.publish
    published = 0

    def counted_publish(self: Any, message: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal published
        published += 1
        if published % _SAMPLED == 0:
            _add(tally, f"AMQP {self.name or 'outcomes'}", items_in(message.body))
        return publish(self, message, *arguments, **options)

    exchange.publish = counted_publish


def _package_of(send: Callable[..., Any]) -> str:
    """`log` for what is sent by tcc_server.log.sqlite, and so on."""
    module = getattr(getattr(send, "func", send), "__module__", None) or "?"
    return f"{module.split('.')[1 if '.' in module else 0]} batches"


def _add(tally: Tally, name: str, items: int) -> None:
    place = tally.hop(name)
    tally.numbers[place] += 1
    tally.numbers[place + 1] += items


def items_in(message: object) -> int:
    """How many items the list has that a message is: entries of its field 1."""
    body = message if isinstance(message, bytes) else message.SerializeToString()  # type: ignore[attr-defined]  # protobuf's
    at = items = 0
    while at < len(body):
        tag, at = _varint(body, at)
        match tag & 7:
            case 0:
                _, at = _varint(body, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(body, at)
                at += size
            case _:
                at += 4
        items += tag >> 3 == 1
    return items


def _varint(body: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = body[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at


if __name__ == "__main__":
    main(*sys.argv[1:])
