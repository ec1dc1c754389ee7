"""`tcc bridge`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Annotated

import uvloop
from cyclopts import Parameter

from tcc.amqp.problems import where
from tcc_server.bridge.bridge import Bridge
from tcc_server.cli._exits import CommandError, Exit
from tcc_server.cli._logging import set_up_logging
from tcc_server.cli._options import ConfigFile, Json
from tcc_server.cli._output import print_json
from tcc_server.cli._settings import configured
from tcc_server.config import Config


def bridge(
    *,
    config: ConfigFile,
    participant: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    json: Json = False,
) -> None:
    """Consume commands for services that are built without the SDK.

    Parameters
    ----------
    participant
        Names of participants to serve. Default: all that the configuration calls bridged.
    """
    settings = configured(config, os.environ)
    endpoints = _served(settings, participant)
    set_up_logging(settings)
    rabbitmq = settings.rabbitmq
    serving = Bridge(rabbitmq.url, endpoints, publish_timeout=rabbitmq.publish_timeout, heartbeat=rabbitmq.heartbeat)
    uvloop.run(serving.run(settings.drain_timeout, partial(_ready, where(rabbitmq.url), endpoints, json)))


def _served(settings: Config, names: list[str] | None) -> dict[str, str]:
    """Participant to endpoint. Raises CommandError."""
    bridged = {name: entry.endpoint for name, entry in settings.participants.items() if entry.bridged}
    if not bridged:
        raise CommandError(
            "no participant of the configuration has bridged = true: set it for those without the SDK", Exit.USAGE
        )
    wrong = [name for name in names or () if name not in bridged]
    if wrong:
        raise CommandError(
            f"--participant {' '.join(wrong)}: the configuration has no such participant with bridged = true; "
            f"it has {', '.join(bridged)}",
            Exit.USAGE,
        )
    return {name: bridged[name] for name in names} if names else bridged


def _ready(broker: str, endpoints: Mapping[str, str], json: bool) -> None:
    if json:
        print_json({"event": "ready", "rabbitmq": broker, "participants": dict(endpoints), "pid": os.getpid()})
    else:
        print(f"The bridge consumes from RabbitMQ at {broker} for {', '.join(endpoints)}", flush=True)
