"""Runs a module as `python -m` does, and counts what it does while it runs: RPCs begun, and rows written by SQLAlchemy.

    python -m benchmarks.counted FILE MODULE [ARGUMENT ...]

The counts stand in FILE, which the benchmark maps into its memory: counting costs an addition, and reading costs the
process nothing. An RPC is counted where it is called, so one between two counted processes is counted once; repeats are
counted, as they are sent. Rows of the toolkit's own tables (tcc_...) are counted, a service's own are not.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

from benchmarks.counts import ROWS, RPCS, shared

_KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")


def main(file: str, module: str, *arguments: str) -> None:
    """Count, and be that module."""
    counts = shared(file)
    channel = importlib.import_module("grpc.aio._channel")  # grpc.aio has no public place to count at without cost
    for kind in _KINDS:
        method = getattr(channel, f"{kind}MultiCallable")
        method.__call__ = _counting(method.__call__, counts)

    def wrote(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if statement.lstrip()[:6].upper() in {"INSERT", "UPDATE"} and "tcc_" in statement:
            counts[ROWS] += max(cursor.rowcount, 0)

    event.listen(Engine, "after_cursor_execute", wrote)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _counting(call: Callable[..., Any], counts: memoryview[int]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        counts[RPCS] += 1
        return call(*arguments, **options)

    return counted


if __name__ == "__main__":
    main(*sys.argv[1:])
