"""A process that appends rows to a log for ever and reports each one that was acknowledged on its own line."""

from __future__ import annotations

import asyncio
import sys

from tcc_server.log.postgres import PostgresLog
from tcc_server.log.postgres_database import is_postgres
from tcc_server.log.seam import Log
from tcc_server.log.sqlite import SqliteLog
from tests.log.rows import finished, new_row


async def run(database: str) -> None:
    log: Log
    if is_postgres(database):
        log = PostgresLog(database, replica="killed", lease_ttl=1.0)
    else:
        log = SqliteLog(database, replica="killed")
    await log.open()
    await log.append(new_row("left-open"))
    print("left-open", 1, flush=True)

    async def keep_appending(worker: int) -> None:
        number = 0
        while True:
            row = new_row(f"t-{worker}-{number}", body=b"x" * 600)
            await log.append(row)
            print(row.key.gid, 1, flush=True)
            await log.append(finished(row))
            print(row.key.gid, 2, flush=True)
            number += 1

    async with asyncio.TaskGroup() as workers:
        for worker in range(8):
            workers.create_task(keep_appending(worker))


asyncio.run(run(sys.argv[1]))
