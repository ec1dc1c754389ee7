"""What the private servers share: free ports, waiting until a port answers, ending a process by its id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class ServerMissing(Exception):
    """A server's program is not installed; the message says what to install."""


class ServerFailed(Exception):
    """A server did not come up, or ended by itself; the message has the end of its output."""


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(package: str, *names: str) -> str:
    """The first of these programs that there is. Raises ServerMissing."""
    for name in names:
        found = shutil.which(name) if "/" not in name else (name if Path(name).exists() else None)
        if found:
            return found
    raise ServerMissing(f"{names[0]} is not installed: apt-get install {package}")


def user_prefix(user: str) -> list[str]:
    """What goes before a command to run it as another user; nothing where we are not root anyway."""
    # Not runuser, which stays as a parent in between: what is killed must be ours to wait for.
    return [] if os.geteuid() else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]


def give_to(user: str, folder: Path) -> None:
    """Let that user own a folder, where we are root."""
    if not os.geteuid():
        shutil.chown(folder, user, user)


class Process:
    """A child process whose output goes to a file."""

    def __init__(self, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> None:
        self._log = log
        self._name = command[0]
        with log.open("ab") as out:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environ} if environ else None,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it; None while it runs."""
        return self._child.poll()

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait for it to be ready. Raises ServerFailed."""
        end = time.monotonic() + seconds
        while not ready():
            if self._child.poll() is not None or time.monotonic() > end:
                self.end(signal.SIGKILL)
                raise ServerFailed(f"{self._name} did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def end(self, number: signal.Signals, seconds: float = 30.0) -> None:
        """Signal its group and wait for it; SIGKILL where it does not go."""
        for attempt in (number, signal.SIGKILL):
            if self._child.poll() is None:
                os.killpg(self.pid, attempt)
                try:
                    self._child.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue
            return

    def kill_family(self) -> None:
        """SIGKILL it and its children, which may be in groups of their own, and wait until all are gone."""
        children = [pid for pid, (parent, _) in _processes().items() if parent == self.pid]
        self.end(signal.SIGKILL)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        while any(state != "Z" for pid, (_, state) in _processes().items() if pid in children):
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """Signal its group."""
        os.killpg(self.pid, number)


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and state of each process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            found[int(stat.parent.name)] = (int(parent), state)
    return found


def answers(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
