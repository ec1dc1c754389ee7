"""`tcc demo`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tcc_server.cli._exits import CommandError

_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def demo() -> int:
    """Run `services.demo`, which is in the repository and not in the package."""
    if not (_CHECKOUT / "services" / "demo").is_dir():
        raise CommandError(
            "the demo is part of the repository, not of the installed package: "
            "get the repository and run 'make demo' there"
        )
    return subprocess.run([sys.executable, "-m", "services.demo"], cwd=_CHECKOUT, check=False).returncode
