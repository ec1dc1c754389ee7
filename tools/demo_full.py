"""`make demo-full`: the demo on the whole stack, on private servers that it starts, restarts, flushes and stops.

    python -m tools.demo_full [--json] [--otlp URL]

The servers listen on loopback, on free ports, with a temporary folder for their data. Ctrl-C and SIGTERM stop them too.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import redis.asyncio

from services.demo._run import run
from services.demo.full import Outages, Stack, demo_on
from tests.servers.postgres import Postgres
from tests.servers.process import ServerFailed, ServerMissing
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_full", description="The demo on private servers.")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document, and nothing else")
    parser.add_argument("--otlp", metavar="URL", help="http://HOST:PORT where spans go")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)  # until the demo itself listens to it
    try:
        with ExitStack() as held:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="tcc-servers-")))
            folder.chmod(0o755)  # PostgreSQL refuses root: it runs as a user of its own
            if not given.json:
                print("* starting RabbitMQ, Redis and PostgreSQL, private ones", flush=True)
            postgres, rabbitmq, locks = (
                Postgres(folder / "postgres"), RabbitMQ(folder / "rabbitmq"), Redis(folder / "redis")
            )  # fmt: skip
            for server in (postgres, rabbitmq, locks):
                held.callback(server.stop)
                server.start()
            stack = Stack(
                rabbitmq=rabbitmq.url,
                redis=locks.url,
                postgres=f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres",
                otlp=given.otlp,
                outages=_outages(rabbitmq, locks),
            )
            code = run(demo_on(stack), given.json)
            signal.signal(signal.SIGTERM, _end)  # the demo's event loop took the handler with it
            return code
    except (ServerMissing, ServerFailed) as error:
        print(f"demo-full: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _outages(rabbitmq: RabbitMQ, locks: Redis) -> Outages:
    async def stop() -> None:
        await asyncio.to_thread(rabbitmq.stop)

    async def start() -> None:
        await asyncio.to_thread(rabbitmq.start)

    async def flush() -> int:
        async with redis.asyncio.Redis.from_url(locks.url) as client, client.pipeline(transaction=True) as together:
            together.dbsize()
            together.flushall()
            keys, _ = await together.execute()
            return int(keys)

    return Outages(stop, start, flush)


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
