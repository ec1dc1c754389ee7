"""Servers that somebody else runs, named by a URL in the environment. They can be used, not stopped."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine


@dataclass(frozen=True, slots=True)
class Running:
    """A running Redis or RabbitMQ."""

    url: str


class RunningPostgres:
    """A running PostgreSQL whose user may create databases.

    Args:
        url: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql+asyncpg")

    def database(self) -> str:
        """Make a new, empty database; its URL for SQLAlchemy with asyncpg."""
        name = f"tcc_test_{secrets.token_hex(8)}"
        with ThreadPoolExecutor(1) as thread:  # the caller's own thread may have a running loop
            thread.submit(asyncio.run, self._create(name)).result()
        return self._url.set(database=name).render_as_string(hide_password=False)

    async def _create(self, name: str) -> None:
        engine = create_async_engine(self._url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f'CREATE DATABASE "{name}"'))
        await engine.dispose()
