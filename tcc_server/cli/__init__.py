"""The command `tcc`, also as `python -m tcc`.

This module only finds out whether what the command needs is installed; the commands are listed in `_app`, and each is
imported when it is called, so that the light ones start quickly and ask for few packages.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from tcc_server.cli._exits import Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its arguments; None for those of the process.

    Returns:
        The exit code, one of `Exit`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return int(import_module("tcc_server.cli._app").run(arguments))
    except ImportError as error:
        missing = _missing_package(error)
        if missing is None:
            raise
        extra = "types" if arguments[:1] in (["protoc"], ["protos"]) else "server"
        print(f"tcc: this needs the package {missing}: pip install 'tcc-toolkit[{extra}]'", file=sys.stderr)
        return Exit.USAGE


def _missing_package(error: BaseException | None) -> str | None:
    """The package of somebody else that is not installed; None where the error is of another kind."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            return None if package in {"tcc", "tcc_server"} else package
        error = error.__cause__
    return None
