"""Writes to a SQLite database in every way in which the toolkit does, for the test of what is counted of it."""

from __future__ import annotations

import asyncio
import sqlite3
import sys

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

COMMITS, ROWS = 5, 7
"""That wrote something, and the rows in them."""


def plainly(path: str) -> None:
    """By the driver: 2 commits, 4 rows."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE written (number INTEGER PRIMARY KEY)")
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO written VALUES (?)", [(1,), (2,), (3,)])
    connection.execute("COMMIT")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO written VALUES (4)")
    connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO written VALUES (1) ON CONFLICT DO NOTHING")
    connection.execute("COMMIT")
    cursor = connection.cursor()
    sqlite3.Cursor.execute(cursor, "BEGIN IMMEDIATE")
    sqlite3.Cursor.execute(cursor, "UPDATE written SET number = 5 WHERE number = 1")
    sqlite3.Cursor.execute(cursor, "COMMIT")
    connection.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def through_sqlalchemy(path: str) -> None:
    """As the log does: 1 commit, 1 row."""
    engine = create_engine(
        "sqlite+pysqlite://", creator=lambda: sqlite3.connect(path, isolation_level=None, timeout=5.0)
    )
    event.listen(engine, "begin", _begin)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO written VALUES (6)"))
    with engine.connect() as connection:
        connection.execute(text("SELECT count(*) FROM written"))
    engine.dispose()


async def through_aiosqlite(path: str) -> None:
    """As the fences do: 2 commits, 2 rows."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    for number in (7, 8):
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO written VALUES (:number)"), {"number": number})
    await engine.dispose()


if __name__ == "__main__":
    plainly(sys.argv[1])
    through_sqlalchemy(sys.argv[1])
    asyncio.run(through_aiosqlite(sys.argv[1]))
