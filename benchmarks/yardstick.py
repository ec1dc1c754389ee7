"""R: what plain grpc.aio does on this machine in this run, before and after all else.

A unary echo of 100 bytes, both ends Python with uvloop, each a process. R is its calls a second with 64 at once; a
round trip is its median latency with one at a time; its CPU is that of both ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from benchmarks.processes import Process


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The echo's figures."""

    per_second: float
    round_trip_ms: float
    cpu_ms: float


def mean(measured: Sequence[Yardstick]) -> Yardstick:
    """Of several measurements."""
    return Yardstick(
        **{field.name: sum(getattr(one, field.name) for one in measured) / len(measured) for field in fields(Yardstick)}
    )


async def client(*command: str) -> dict[str, Any]:
    """Run a load (`benchmarks.load`) in a process of its own; what it printed. Raises RuntimeError where it failed."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *command, stdout=asyncio.subprocess.PIPE)
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the load failed: {' '.join(command)}")
    figures: dict[str, Any] = json.loads(out)
    return figures


async def yardstick(seconds: float) -> Yardstick:
    """Measure it; takes about twice that time."""
    server = await Process.start("benchmarks.echo")
    try:
        target = f"127.0.0.1:{server.port}"
        alone = await client("benchmarks.load", "echo", target, "1", str(seconds))
        before = server.cpu_seconds()
        many = await client("benchmarks.load", "echo", target, "64", str(seconds))
        cpu_ms = many["cpu_ms"] + 1000 * (server.cpu_seconds() - before) / many["calls"]
    finally:
        await server.stop()
    return Yardstick(many["per_second"], alone["p50_ms"], cpu_ms)
