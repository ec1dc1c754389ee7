"""Options that several commands share, so that they mean and say the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tcc.ids import problem_with_id
from tcc_server.cli._exits import CommandError, Exit

DEFAULT_MANAGER = "127.0.0.1:7070"

Json = Annotated[bool, Parameter(name="--json", help="Print JSON, one document a line.")]
ManagerAddress = Annotated[
    str, Parameter(name="--manager", env_var="TCC_MANAGER", help="The manager's address, HOST:PORT.")
]
Gid = Annotated[str, Parameter(name="GID", help="The transaction's id.")]
ConfigFile = Annotated[Path, Parameter(name="--config", help="The manager's configuration, a TOML file.")]


def checked_gid(gid: str) -> str:
    """The gid, if it can be one. Raises CommandError."""
    problem = problem_with_id("gid", gid)
    if problem is not None:
        raise CommandError(problem, Exit.USAGE)
    return gid
