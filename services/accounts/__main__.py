"""Runs a bank:

python -m services.accounts --listen 127.0.0.1:50061 --database accounts-a.db --name bank-a
"""

from __future__ import annotations

from services._database import opened
from services._server import Options, main, parser, participant_server, run, traced
from services.accounts._database import METADATA
from services.accounts._service import Accounts
from services.accounts.v1.accounts_pb2_grpc import add_AccountsServicer_to_server


async def serve(options: Options) -> None:
    """Serves a bank until SIGTERM."""
    async with opened(options.database, METADATA) as fence, traced(options) as spans:
        server = participant_server(options, fence, spans)
        add_AccountsServicer_to_server(Accounts(fence), server)
        await run(server, options, "accounts")


if __name__ == "__main__":
    command = parser("accounts", "A bank's accounts.", port=50061, name="bank")
    main(command, serve(Options.of(command.parse_args())))
