"""The installation of deploy/compose.yaml, run as processes: its own commands and environment, on addresses of our own.

Everything is as compose starts it, in its order, except for the containers: PostgreSQL's databases are made by
databases.sql, the migration runs once, two managers share the log, and one instance of each service is enough.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.deploy.test_compose import DEPLOY, MANAGERS, PARTICIPANTS, ROOT, command, environment
from tests.servers.postgres import Postgres
from tests.servers.process import free_port
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.tracing.receiver import Seen, receiver


@pytest.fixture(scope="module")
def addresses(servers_folder: Path) -> Iterator[dict[str, str]]:
    """Compose's names of the servers, and where they are here."""
    postgres, rabbitmq, redis = (
        Postgres(servers_folder / "deploy-postgres"),
        RabbitMQ(servers_folder / "deploy-rabbitmq"),
        Redis(servers_folder / "deploy-redis"),
    )
    for server in (postgres, rabbitmq, redis):
        server.start()
    postgres.sql("postgres", "CREATE ROLE tcc SUPERUSER LOGIN")
    for statement in (DEPLOY / "databases.sql").read_text().splitlines():
        postgres.sql("postgres", statement)
    rabbitmq.control("add_user", "tcc", "tcc")
    rabbitmq.control("set_permissions", "tcc", ".*", ".*", ".*")
    yield {
        "postgres:5432": f"127.0.0.1:{postgres.port}",
        "rabbitmq:5672": f"127.0.0.1:{rabbitmq.port}",
        "redis:6379": f"127.0.0.1:{redis.port}",
    }
    redis.kill()
    rabbitmq.stop()
    postgres.kill()


class Installation:
    """Runs the containers' commands with addresses of this machine.

    Args:
        folder: to run in.
        found: compose's addresses, and what they are here.
    """

    def __init__(self, folder: Path, found: Mapping[str, str]) -> None:
        self._folder = folder
        self._found = dict(found)
        for number, name in enumerate(PARTICIPANTS, start=50061):
            self._found[f"{name}:{number}"] = self._found[f"0.0.0.0:{number}"] = f"127.0.0.1:{free_port()}"

    def here(self, text: str) -> str:
        """With every address as it is here."""
        for name, address in self._found.items():
            text = text.replace(name, address)
        return text

    def listen(self, manager: str) -> None:
        """Let a manager's own configuration lie where its command looks for it; clients call the last one."""
        address = self._found["manager:7070"] = f"127.0.0.1:{free_port()}"
        text = (DEPLOY / "tcc.toml").read_text().replace("0.0.0.0:7070", address)
        (self._folder / f"{manager}.toml").write_text(self.here(text))

    async def start(self, name: str, config: str = "") -> Process:
        """Start a container's command; its output can be read."""
        words = [str(DEPLOY / "load.py") if word.endswith("/load.py") else word for word in command(name)]
        return await self.run(
            [*(("-m", "tcc") if name in {*MANAGERS, "migrate"} else ()), *words], name, config or name
        )

    async def run(self, words: Sequence[str], name: str, config: str) -> Process:
        """Run Python in the environment of a container."""
        environ = {key: self.here(value) for key, value in environment(name).items()}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TCC_")}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *(self.here(word).replace("/etc/tcc/tcc.toml", f"{config}.toml") for word in words),
            cwd=self._folder,
            env={**kept, **environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=PIPE,
        )

    async def finish(self, name: str, config: str = "") -> tuple[int | None, str]:
        """Run a one-shot command to its end."""
        process = await self.start(name, config)
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    @asynccontextmanager
    async def serving(self, name: str) -> AsyncIterator[None]:
        """A server, from its first line on; it has to end well."""
        process = await self.start(name)
        assert process.stdout is not None
        try:
            assert await process.stdout.readline()
            yield
        finally:
            process.terminate()
            await process.communicate()
        assert process.returncode == 0


async def test_orders_are_placed_whole_traces_arrive_and_the_doctor_finds_nothing(
    addresses: dict[str, str], tmp_path: Path
) -> None:
    async with receiver() as jaeger, asyncio.timeout(100):
        shop = Installation(tmp_path, {**addresses, "jaeger:4317": jaeger.endpoint.removeprefix("http://")})
        for manager in MANAGERS:
            shop.listen(manager)
        code, _ = await shop.finish("migrate", MANAGERS[0])
        assert code == 0
        async with AsyncExitStack() as running:
            for name in (*MANAGERS, *PARTICIPANTS):
                await running.enter_async_context(shop.serving(name))
            assert await shop.finish("load") == (0, "45 PLACED, 5 REJECTED\n")
            spans = await jaeger.until(lambda spans: bool(whole(spans)))
            words = ("-m", "tcc", "doctor", "--config", "/etc/tcc/tcc.toml", "--redis", "redis://redis:6379/0")
            doctor = await shop.run(words, MANAGERS[0], MANAGERS[0])
            found, _ = await doctor.communicate()
        assert whole(spans)
        assert (doctor.returncode, found.decode().splitlines()[-1]) == (0, f"{found.count(b'ok  ')} ok"), found.decode()


def whole(spans: list[Seen]) -> list[str]:
    """The traces that hold the order, the manager, and the work of all three services through RabbitMQ."""
    services: dict[str, set[str]] = {}
    for span in spans:
        if span.kind in {"server", "consumer"}:
            services.setdefault(span.trace, set()).add(f"{span.service} {span.kind}")
    needed = {"tcc-manager server", "bank consumer", "inventory consumer", "orders consumer"}
    return [trace for trace, found in services.items() if needed <= found]
