"""What a type checker makes of `Manager.transaction`, and of what readers and handlers of errors get.

A comment `# E:` states the error that mypy --strict must give on its line, `# N:` the note; no other line may have any.
"""
# ruff: noqa: B018  # wrong on purpose

from typing import reveal_type

import tcc
from services.accounts.v1.accounts_pb2 import CreditRequest, DebitRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub

debit = DebitRequest(account="a", amount=1)


async def right(manager: tcc.Manager) -> None:
    async with manager.transaction("transfer", timeout=5.0, wait=tcc.DECIDED) as tx:
        reveal_type(tx)  # N: "tcc.client._interactive.Transaction"
        bank = AccountsStub(tx.channel)
        reply = await bank.TryDebit(debit)
        reveal_type(reply)  # N: "accounts_pb2.DebitReply"
        other = AccountsStub(tx.channel.participant("bank-b"))
        await other.TryCredit(CreditRequest(account="b", reference=reply.reservation_id))
    async for view in manager.list(states=[tcc.State.MIXED], attention=True):
        reveal_type(view.branches[0].try_sent_at)  # N: "datetime.datetime | None"
    async for view in manager.watch(tx.gid):
        reveal_type(view.state)  # N: "tcc.client._views.State"
    reveal_type(await manager.get(tx.gid))  # N: "tcc.client._views.TransactionView"


async def errors(manager: tcc.Manager) -> None:
    try:
        await manager.confirm("t-1")
    except tcc.TransactionCancelled as stopped:
        reveal_type(stopped.refusals)  # N: "tuple[tcc.errors.BranchRefused, ...]"
        reveal_type(stopped.refusals[0].details())  # N: "str | None"
    except tcc.ManagerError as refused:
        reveal_type(refused.code)  # N: "grpc.StatusCode"


async def wrong(manager: tcc.Manager) -> None:
    async with manager.transaction(3) as tx:  # E: Argument 1 to "transaction" of "Manager" has incompatible type "int"
        bank = AccountsStub(tx.channel)
        await bank.TryCredit(debit)  # E: has incompatible type "DebitRequest"; expected "CreditRequest"
        (await bank.TryDebit(debit)).amount  # E: "DebitReply" has no attribute "amount"
        tx.chanel  # E: "Transaction" has no attribute "chanel"
    view = await manager.get("t-1")
    view.state = tcc.State.CONFIRMED  # E: Property "state" defined in "TransactionView" is read-only
    manager.list(states=["CONFIRMED"])  # E: has incompatible type "str"; expected "State"
