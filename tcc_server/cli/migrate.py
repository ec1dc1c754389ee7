"""`tcc migrate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tcc_server.cli._exits import CommandError, Exit
from tcc_server.cli._options import Json
from tcc_server.cli._output import print_json
from tcc_server.cli._settings import configured
from tcc_server.config import hide_secrets
from tcc_server.log import migrate as schema
from tcc_server.log.postgres_database import is_postgres
from tcc_server.log.seam import LogUnavailable


def migrate(
    *,
    config: Annotated[Path | None, Parameter(help="The manager's configuration, a TOML file.")] = None,
    log: Annotated[
        str | None, Parameter(help="The log's url, such as sqlite:///tcc.db or postgresql://tcc@db/tcc.")
    ] = None,
    json: Json = False,
) -> None:
    """Bring the log's schema to this version."""
    if (config is None) == (log is None):
        raise CommandError("give either --config FILE or --log URL", Exit.USAGE)
    settings = configured(config, os.environ) if log is None else configured(None, {}, log=log)
    database = settings.log if is_postgres(settings.log) else settings.sqlite_path
    if database is None:
        raise CommandError("a log in memory has no schema: name one that is kept, such as sqlite:///tcc.db", Exit.USAGE)
    try:
        revision = schema.migrate(database)
    except LogUnavailable as error:
        raise CommandError(str(error)) from error
    if json:
        print_json({"log": hide_secrets(str(database)), "revision": revision})
    else:
        print(f"{hide_secrets(str(database))} is at revision {revision}")
