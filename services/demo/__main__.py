"""Runs the demo. Exit 0 only if every part of the proof holds; 2 for wrong arguments."""

from __future__ import annotations

import argparse
import sys

from services.demo._run import Demo, run
from services.demo._story import Story
from services.demo._transfers import COUNT
from services.demo.full import Stack, demo_on

LIMIT = 60.0
"""Seconds that the demo may take."""


def main() -> int:
    """Reads the command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m services.demo",
        description="Bank transfers with crashes. With the three URLs: orders and transfers on the whole stack.",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document, and nothing else")
    parser.add_argument("--rabbitmq", metavar="URL", help="amqp://USER:PASSWORD@HOST:PORT/VHOST")
    parser.add_argument("--redis", metavar="URL", help="redis://HOST:PORT/0")
    parser.add_argument("--postgres", metavar="URL", help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    parser.add_argument("--otlp", metavar="URL", help="http://HOST:PORT where spans go; only with the other three")
    given = parser.parse_args()
    servers = {"--rabbitmq": given.rabbitmq, "--redis": given.redis, "--postgres": given.postgres}
    missing = [option for option, url in servers.items() if not url]
    if missing and (len(missing) < len(servers) or given.otlp):
        parser.error(f"the demo on the whole stack needs {', '.join(missing)} too; without any URL it needs no server")
    if missing:
        return run(Demo("transfers", COUNT, LIMIT, Story), given.json)
    return run(demo_on(Stack(given.rabbitmq, given.redis, given.postgres, given.otlp)), given.json)


if __name__ == "__main__":
    sys.exit(main())
