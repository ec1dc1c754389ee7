"""All checks of one configuration, in the order in which an installation stands: log, broker, locks, participants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tcc_server.config import Config
from tcc_server.doctor.finding import Finding, warning
from tcc_server.doctor.participants import check_participants
from tcc_server.doctor.postgres import check_postgres
from tcc_server.doctor.rabbitmq import check_rabbitmq
from tcc_server.doctor.redis import check_redis
from tcc_server.doctor.sqlite import SUBJECT as LOG, check_sqlite
from tcc_server.log.postgres_database import is_postgres


async def examine(config: Config, redis: str | None = None) -> AsyncIterator[Finding]:
    """Look at everything, one part after the other; a part that is away does not hide the next.

    Args:
        config: the manager's.
        redis: URL of the participants' Redis, which the manager itself knows nothing of; None: it isn't looked at.
    """
    for finding in await _log(config):
        yield finding
    for finding in await check_rabbitmq(config):
        yield finding
    if redis is not None:
        for finding in await check_redis(redis):
            yield finding
    for finding in await check_participants(config.participants):
        yield finding


async def _log(config: Config) -> list[Finding]:
    if is_postgres(config.log):
        return await check_postgres(config.log)
    if config.sqlite_path is not None:
        return await asyncio.to_thread(check_sqlite, config.sqlite_path)
    return [
        warning(LOG, "it is in memory: all transactions are lost when the manager ends", "log = 'sqlite:///tcc.db'")
    ]
