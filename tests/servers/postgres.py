"""A private PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
from itertools import count
from pathlib import Path

from sqlalchemy.engine import make_url

from tests.servers.process import Process, answers, free_port, give_to, program, user_prefix
from tests.servers.proxy import Proxy

_BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_USER = "postgres"


class Postgres:
    """One PostgreSQL server with as many databases as are asked for. Runs as `postgres` where we are root.

    Args:
        folder: its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Process | None = None
        self._names = (f"db{number}" for number in count())
        self.port = free_port()

    def start(self) -> None:
        """Make its cluster the first time, and start it, on the same port each time."""
        data = self._folder / "data"
        if not data.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o755)
            data.mkdir(mode=0o700)
            give_to(_USER, data)
            self._run("initdb", "-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        command = [*user_prefix(_USER), _program("postgres"), "-D", str(data), *options]
        self._process = Process(command, self._folder / "postgres.log")
        self._process.wait_until(self._is_ready, 30)

    def database(self) -> str:
        """Make a new, empty database; its URL for SQLAlchemy with asyncpg."""
        name = next(self._names)
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, name)
        return f"postgresql+asyncpg://{_USER}@127.0.0.1:{self.port}/{name}"

    def sql(self, database: str, statement: str) -> str:
        """Run a statement by psql; its output."""
        arguments = ("-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, "-d", database, "-Atc", statement)
        return self._run("psql", *arguments)

    def let_in(self, method: str) -> None:
        """Restart it with another way to let users in: "trust", as in the beginning, or "scram-sha-256"."""
        self.stop()
        (self._folder / "data" / "pg_hba.conf").write_text(f"host all all 127.0.0.1/32 {method}\n")
        self.start()

    def stop(self) -> None:
        """End it at once, but cleanly."""
        if self._process is not None:
            self._process.end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL all of its processes."""
        if self._process is not None:
            self._process.kill_family()

    def _is_ready(self) -> bool:
        if not answers(self.port):
            return False
        check = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", _USER]
        return subprocess.run(check, check=False, capture_output=True).returncode == 0

    def _run(self, name: str, *arguments: str) -> str:
        command = [*user_prefix(_USER), _program(name), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout


def through(proxy: Proxy, url: str) -> str:
    """The URL of a database, by way of a proxy in front of its server."""
    return make_url(url).set(port=proxy.port).render_as_string(hide_password=False)


def _program(name: str) -> str:
    return program("postgresql", *(str(folder / name) for folder in _BIN), name)
