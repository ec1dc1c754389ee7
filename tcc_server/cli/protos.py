"""`tcc protos`."""

from __future__ import annotations

from tcc_server.cli._includes import own_protos
from tcc_server.cli._options import Json
from tcc_server.cli._output import print_json


def protos(*, json: Json = False) -> None:
    """Print the directory that holds tcc/v1/*.proto."""
    directory = str(own_protos())
    if json:
        print_json({"include": directory})
    else:
        print(directory)
