"""Runs a bank:

python -m services.accounts --listen 127.0.0.1:50061 --database accounts-a.db --name bank-a
"""

from __future__ import annotations

import argparse
import asyncio
import logging

import tcc
from services.accounts._database import METADATA
from services.accounts._service import Accounts
from services.accounts.v1.accounts_pb2_grpc import add_AccountsServicer_to_server


async def serve(listen: str, database: str, name: str) -> None:
    """Serves a bank until SIGTERM."""
    fence = tcc.SqlFence(f"sqlite+aiosqlite:///{database}")
    await fence.create_tables()
    async with fence.engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    server = tcc.ParticipantServer(listen, fence=fence, name=name)
    add_AccountsServicer_to_server(Accounts(fence), server)
    host = listen.rpartition(":")[0]
    await server.run(started=lambda: print(f"{name} serves accounts on {host}:{server.port}", flush=True))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m services.accounts", description="A bank's accounts.")
    parser.add_argument("--listen", default="127.0.0.1:50061", help="host:port; port 0 takes a free one")
    parser.add_argument("--database", default="accounts.db", help="the SQLite file")
    parser.add_argument("--name", default="bank", help="the participant's name, as the manager knows it")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        asyncio.run(serve(options.listen, options.database, options.name))
    except tcc.UsageError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
