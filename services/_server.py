"""What the example services' processes share: their options, and how they are served.

Each has its own `serve` and `main` in its `__main__.py`. An option that all of them should have is added here: to
`Options`, to `parser`, and to `participant_server` or `run`, where it takes effect.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

from opentelemetry.trace import TracerProvider

import tcc
from tcc.tracing.export import Exporter


@dataclass(frozen=True, slots=True)
class Options:
    """What every service is told.

    Attributes:
        listen: host:port; port 0 takes a free one.
        database: an SQLite file, or a URL.
        name: the participant's name, as the manager knows it.
        rabbitmq: url of the RabbitMQ that commands come through; None: they come by gRPC.
        redis: url of the Redis that keeps double deliveries apart; None: only the fence does.
        otlp: where spans go, http://HOST:PORT; None: nowhere.
    """

    listen: str
    database: str
    name: str
    rabbitmq: str | None = None
    redis: str | None = None
    otlp: str | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Options:
        """From the command line."""
        return cls(
            arguments.listen, arguments.database, arguments.name, arguments.rabbitmq, arguments.redis, arguments.otlp
        )


def parser(service: str, description: str, *, port: int, name: str) -> argparse.ArgumentParser:
    """Reads a service's command line.

    Args:
        service: its package in `services`.
        description: what it is, for `--help`.
        port: where it listens if nothing else is said.
        name: what it is called then.
    """
    made = argparse.ArgumentParser(prog=f"python -m services.{service}", description=description)
    made.add_argument("--listen", default=f"127.0.0.1:{port}", help="host:port; port 0 takes a free one")
    made.add_argument(
        "--database", default=f"{service}.db", help="an SQLite file, or a URL such as postgresql+asyncpg://host/name"
    )
    made.add_argument("--name", default=name, help="the participant's name, as the manager knows it")
    made.add_argument(
        "--rabbitmq", metavar="URL", help="amqp://USER:PASSWORD@HOST:PORT/VHOST, to consume commands from"
    )
    made.add_argument("--redis", metavar="URL", help="redis://HOST:PORT/0, to keep double deliveries apart")
    made.add_argument(
        "--otlp", metavar="URL", help="http://HOST:PORT of an OTLP gRPC receiver, such as Jaeger, for spans"
    )
    return made


@asynccontextmanager
async def traced(options: Options) -> AsyncIterator[TracerProvider | None]:
    """Where spans go, until the end; None where they go nowhere."""
    if options.otlp is None:
        yield None
        return
    exporter = Exporter(options.name, options.otlp)
    try:
        yield exporter.provider
    finally:
        await exporter.close()


def participant_server(
    options: Options, fence: tcc.SqlFence, spans: TracerProvider | None = None
) -> tcc.ParticipantServer:
    """The server, for servicers to be added to."""
    return tcc.ParticipantServer(
        options.listen,
        fence=fence,
        name=options.name,
        lock=None if options.redis is None else tcc.RedisLock(options.redis),
        rabbitmq=options.rabbitmq,
        tracer_provider=spans,
    )


async def run(server: tcc.ParticipantServer, options: Options, what: str) -> None:
    """Serves until SIGTERM, and says where."""
    host = options.listen.rpartition(":")[0]
    await server.run(started=lambda: print(f"{options.name} serves {what} on {host}:{server.port}", flush=True))


def main(made: argparse.ArgumentParser, serving: Coroutine[None, None, None]) -> None:
    """Runs a service; what its user got wrong is said in a line, with exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        asyncio.run(serving)
    except tcc.UsageError as error:
        made.exit(2, f"{error}\n")
