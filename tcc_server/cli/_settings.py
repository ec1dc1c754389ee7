"""The configuration for a command: its mistakes end the command, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tcc_server.cli._exits import CommandError, Exit
from tcc_server.config import Config
from tcc_server.config_load import ConfigError, load


def configured(file: Path | None, environ: Mapping[str, str], **overrides: object) -> Config:
    """The configuration from a file, the environment and the command line. Raises CommandError."""
    try:
        return load(file, environ, overrides)
    except ConfigError as error:
        raise CommandError("\n     ".join(error.problems), Exit.USAGE) from error
