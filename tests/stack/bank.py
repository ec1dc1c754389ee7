"""A bank as services.accounts has it; its handlers get two seconds, so a killed instance's locks end after seven.

python -m tests.stack.bank --listen 127.0.0.1:50061 --database postgresql+asyncpg://... --name bank-a
"""

from __future__ import annotations

import tcc
from services._database import opened
from services._server import Options, main, parser, run
from services.accounts._database import METADATA
from services.accounts._service import Accounts
from services.accounts.v1.accounts_pb2_grpc import add_AccountsServicer_to_server

HANDLER_TIMEOUT = 2.0


async def serve(options: Options) -> None:
    """Serve until SIGTERM."""
    async with opened(options.database, METADATA) as fence:
        server = tcc.ParticipantServer(
            options.listen,
            fence=fence,
            name=options.name,
            lock=tcc.RedisLock(str(options.redis)),
            rabbitmq=options.rabbitmq,
            handler_timeout=HANDLER_TIMEOUT,
        )
        add_AccountsServicer_to_server(Accounts(fence), server)
        await run(server, options, "accounts")


if __name__ == "__main__":
    command = parser("accounts", "A bank of the tests.", port=0, name="bank")
    main(command, serve(Options.of(command.parse_args())))
