"""`tcc demo`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tcc_server.cli._exits import CommandError
from tcc_server.cli._options import Json

_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def demo(
    *,
    rabbitmq: str | None = None,
    redis: str | None = None,
    postgres: str | None = None,
    otlp: str | None = None,
    json: Json = False,
) -> int:
    """Run `services.demo`, which is in the repository and not in the package.

    Parameters
    ----------
    rabbitmq
        A RabbitMQ, amqp://USER:PASSWORD@HOST:PORT/VHOST, for the demo on the whole stack; with the next two.
    redis
        A Redis, redis://HOST:PORT/0. It is never flushed.
    postgres
        A PostgreSQL, postgresql://USER:PASSWORD@HOST:PORT/DATABASE, of a user that may create databases.
    otlp
        Where spans go, such as http://127.0.0.1:4317.
    """
    if not (_CHECKOUT / "services" / "demo").is_dir():
        raise CommandError(
            "the demo is part of the repository, not of the installed package: "
            "get the repository and run 'make demo' there"
        )
    urls = {"--rabbitmq": rabbitmq, "--redis": redis, "--postgres": postgres, "--otlp": otlp}
    given = [word for option, url in urls.items() if url is not None for word in (option, url)]
    command = [sys.executable, "-m", "services.demo", *given, *(["--json"] if json else [])]
    with subprocess.Popen(command, cwd=_CHECKOUT) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the demo hears Ctrl-C too, and gets the time to end what it started
                continue
