"""What a type checker makes of `tcc.batchable`: the handler stays what it was.

A comment `# E:` states the error that mypy --strict must give on its line, `# N:` the note; no other line may have any.
"""

from typing import Any, reveal_type

import grpc.aio

import tcc
from services.accounts.v1.accounts_pb2 import DebitReply, DebitRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsServicer


class Accounts(AccountsServicer):
    @tcc.batchable
    async def TryDebit(self, request: DebitRequest, context: grpc.aio.ServicerContext[Any, Any]) -> DebitReply:
        return DebitReply(reservation_id=request.account)


async def handler(request: DebitRequest) -> DebitReply:
    return DebitReply()


kept = tcc.batchable(handler)
reveal_type(kept)  # N: (request: accounts_pb2.DebitRequest) -> typing.Coroutine[Any, Any, accounts_pb2.DebitReply]"


@tcc.batchable  # E: Value of type variable "H" of "batchable" cannot be "Callable[[DebitRequest], DebitReply]"
def not_async(request: DebitRequest) -> DebitReply:
    return DebitReply()
