"""`tcc server`."""

from __future__ import annotations

import os
from functools import partial

import uvloop

from tcc_server.cli._options import ConfigFile, Json
from tcc_server.cli._output import print_json
from tcc_server.cli._serve import serve
from tcc_server.cli._settings import configured


def server(*, config: ConfigFile, json: Json = False) -> None:
    """Run a manager from a configuration file and the environment."""
    settings = configured(config, os.environ)
    uvloop.run(serve(settings, partial(_ready, settings.listen, json)))


def _ready(listen: str, json: bool, port: int) -> None:
    address = f"{listen.rpartition(':')[0]}:{port}"
    if json:
        print_json({"event": "ready", "listen": address, "pid": os.getpid()})
    else:
        print(f"The manager serves at {address}", flush=True)
