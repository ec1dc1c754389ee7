"""`tcc fence-ddl`."""

from __future__ import annotations

from typing import Literal

from tcc.fence import ddl
from tcc_server.cli._options import Json
from tcc_server.cli._output import print_json


def fence_ddl(*, dialect: Literal["sqlite", "postgresql"], json: Json = False) -> None:
    """Print the CREATE TABLE of the fence.

    Parameters
    ----------
    dialect
        The database of the service.
    """
    statement = ddl(dialect)
    if json:
        print_json({"dialect": dialect, "ddl": statement})
    else:
        print(f"{statement};")
