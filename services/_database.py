"""A service's database: SQLite in a file, or PostgreSQL. The fence keeps its table in it, beside the service's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import MetaData
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

import tcc


@asynccontextmanager
async def opened(database: str, metadata: MetaData) -> AsyncIterator[tcc.SqlFence]:
    """Opens a database, makes its tables unless they are there, and closes it at the end.

    Args:
        database: the path of an SQLite file, or an SQLAlchemy URL: `postgresql+asyncpg://user:password@host/name`,
            `sqlite+aiosqlite:///file`.
        metadata: the service's own tables.

    Raises:
        tcc.UsageError: the database cannot be opened.
    """
    url = database if "://" in database else f"sqlite+aiosqlite:///{database}"
    try:
        fence = tcc.SqlFence(url)
    except SQLAlchemyError as error:  # no URL at all
        raise tcc.UsageError(f"{database!r} is no database: {error}") from error
    try:
        try:
            await _create_tables(fence, metadata)
        except (OSError, SQLAlchemyError) as error:
            shown = make_url(url).render_as_string(hide_password=True)
            raise tcc.UsageError(f"the database {shown} cannot be opened: {error}") from error
        yield fence
    finally:
        await fence.close()


async def _create_tables(fence: tcc.SqlFence, metadata: MetaData) -> None:
    try:
        await _create_missing(fence, metadata)
    except (IntegrityError, ProgrammingError):
        # Another instance that starts at this moment made them first; now they are there.
        await _create_missing(fence, metadata)


async def _create_missing(fence: tcc.SqlFence, metadata: MetaData) -> None:
    await fence.create_tables()
    async with fence.begin() as connection:
        await connection.run_sync(metadata.create_all)
