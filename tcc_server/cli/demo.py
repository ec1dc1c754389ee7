"""`tcc demo`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tcc_server.cli._exits import CommandError
from tcc_server.cli._options import Json

_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def demo(*, json: Json = False) -> int:
    """Run `services.demo`, which is in the repository and not in the package."""
    if not (_CHECKOUT / "services" / "demo").is_dir():
        raise CommandError(
            "the demo is part of the repository, not of the installed package: "
            "get the repository and run 'make demo' there"
        )
    command = [sys.executable, "-m", "services.demo", *(["--json"] if json else [])]
    with subprocess.Popen(command, cwd=_CHECKOUT) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the demo hears Ctrl-C too, and gets the time to end what it started
                continue
