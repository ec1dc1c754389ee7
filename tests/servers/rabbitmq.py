"""A private RabbitMQ, with its Erlang port mapper."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.servers.process import Process, answers, free_port, program


class RabbitMQ:
    """One broker on loopback. What it leaves behind (epmd) ends with it.

    Args:
        folder: its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._broker: Process | None = None
        self._epmd: Process | None = None
        self.port = free_port()
        self._dist_port = free_port()
        self._epmd_port = free_port()

    @property
    def url(self) -> str:
        """For clients."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it, on the same port and data each time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.file.level = warning\ndisk_free_limit.absolute = 50MB\n",
            encoding="utf-8",
        )
        (self._folder / "enabled_plugins").write_text("[].\n", encoding="utf-8")
        if self._epmd is None:
            epmd = program("rabbitmq-server", "epmd", "/usr/bin/epmd")
            command = [epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = Process(command, self._folder / "epmd.log")
            self._epmd.wait_until(lambda: answers(self._epmd_port), 20)
        server = program("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")
        self._broker = Process([server], self._folder / "broker.log", self._environ())
        self._broker.wait_until(self._is_ready, 90)

    def stop(self) -> None:
        """End broker and port mapper."""
        if self._broker is not None:
            self._broker.end(signal.SIGTERM)
        if self._epmd is not None:
            self._epmd.end(signal.SIGKILL)
            self._epmd = None

    def kill(self) -> None:
        """SIGKILL the broker."""
        if self._broker is not None:
            self._broker.end(signal.SIGKILL)

    def pause(self) -> None:
        """It accepts connections and says nothing."""
        if self._broker is not None:
            self._broker.send(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        if self._broker is not None:
            self._broker.send(signal.SIGCONT)

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl; its output."""
        tool = program("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmqctl")
        environ = {**os.environ, **self._environ()}
        command = [tool, "-q", *arguments]
        # Bounded: a broker in trouble may never answer.
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environ, timeout=60).stdout

    def _is_ready(self) -> bool:
        return answers(self.port)

    def _environ(self) -> dict[str, str]:
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "HOME": str(self._folder),
            "RABBITMQ_NODENAME": f"tcc{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": loopback,
            "RABBITMQ_CTL_ERL_ARGS": loopback,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
