"""`tcc dev`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import uvloop
from cyclopts import Parameter

from tcc_server.app import StartError, describe
from tcc_server.cli._exits import CommandError, Exit
from tcc_server.cli._options import Json
from tcc_server.cli._output import console, print_json
from tcc_server.cli._serve import serve
from tcc_server.cli._settings import configured
from tcc_server.config import Config, check_endpoint

_MEMORY = ":memory:"
_OWN = frozenset({"TCC_PARTICIPANTS", "TCC_LOG", "TCC_REFLECTION"})
"""Variables that this command's own options stand for."""

_DESCRIBE_TIMEOUT = 10.0
"""Seconds that participants get to say who they are; they may be starting at the same time."""


def dev(
    *,
    participant: Annotated[list[str], Parameter(consume_multiple=True)],
    listen: str | None = None,
    data: str = "tcc-data",
    json: Json = False,
) -> None:
    """Run a manager on a database of its own.

    Parameters
    ----------
    participant
        A service that takes part, HOST:PORT; or NAME=HOST:PORT to name it without asking, which a service without
        the SDK needs.
    listen
        Where to listen, HOST:PORT; port 0 picks one. Default: 127.0.0.1:7070.
    data
        Directory of the database, or :memory: to keep nothing.
    """
    uvloop.run(_run(participant, listen, data, json))


async def _run(participants: list[str], listen: str | None, data: str, json: bool) -> None:
    named, asked = _parse(participants)
    environ = {name: value for name, value in os.environ.items() if name not in _OWN}
    log = "memory:" if data == _MEMORY else f"sqlite:///{Path(data) / 'tcc.db'}"
    given = partial(configured, None, environ, log=log, reflection=True, **({"listen": listen} if listen else {}))
    given()  # what is wrong is said before any waiting
    try:
        found = await describe(asked, _DESCRIBE_TIMEOUT) if asked else {}
    except StartError as error:
        raise CommandError(str(error)) from error
    twice = sorted(found.keys() & named.keys())
    if twice:
        raise CommandError(f"two participants are called {', '.join(twice)}: name one with NAME=HOST:PORT", Exit.USAGE)
    config = given(participants={name: {"endpoint": endpoint} for name, endpoint in {**found, **named}.items()})
    if config.sqlite_path is not None:
        _make_folder(config.sqlite_path.parent)
    await serve(config, partial(_ready, config, data, json))


def _parse(participants: list[str]) -> tuple[dict[str, str], list[str]]:
    """Those with a name, and the endpoints to ask. Raises CommandError."""
    named: dict[str, str] = {}
    asked: list[str] = []
    for given in participants:
        name, equals, endpoint = given.rpartition("=")
        try:
            check_endpoint(endpoint)
        except ValueError as error:
            raise CommandError(f"--participant {given}: {error}", Exit.USAGE) from None
        if not equals:
            asked.append(endpoint)
        elif name in named:
            raise CommandError(f"--participant {given}: {name} is {named[name]} already", Exit.USAGE)
        else:
            named[name] = endpoint
    return named, asked


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--data {folder}: {error.strerror}") from error


def _ready(config: Config, data: str, json: bool, port: int) -> None:
    address = f"{config.listen.rpartition(':')[0]}:{port}"
    endpoints = {name: participant.endpoint for name, participant in config.participants.items()}
    if json:
        print_json({"event": "ready", "listen": address, "pid": os.getpid(), "data": data, "participants": endpoints})
        return
    out = console()
    out.print(f"The manager serves at [bold]{address}[/bold], data in {data}. Ctrl-C stops it.")
    for name, endpoint in endpoints.items():
        out.print(f"  {name}  {endpoint}", style="dim", markup=False)
