"""What a type checker makes of `tcc.plan` and `Manager.execute`.

A comment `# E:` states the error that mypy --strict must give on its line, `# N:` the note; no other line may have any.
"""
# ruff: noqa: B018, F841, RUF059  # wrong on purpose

from typing import reveal_type

import grpc.aio

import tcc
from services.accounts.v1.accounts_pb2 import CreditReply, CreditRequest, DebitRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub

debit = DebitRequest(account="a", amount=1)
credit = CreditRequest(account="b", amount=1)


async def right(manager: tcc.Manager) -> str:
    bank = AccountsStub(tcc.plan)
    reveal_type(bank.TryDebit(debit))  # N: UnaryUnaryCall[accounts_pb2.DebitRequest, accounts_pb2.DebitReply]"
    one = await manager.execute(bank.TryDebit(debit))
    reveal_type(one.replies)  # N: "tuple[accounts_pb2.DebitReply]"
    done = await manager.execute(
        bank.TryDebit(debit, timeout=2.0, metadata=(("tcc-step", "debit"),)),
        AccountsStub(tcc.plan.participant("bank-b")).TryCredit(credit),
        name="transfer",
        gid="t-1",
        timeout=5.0,
        wait=tcc.COMPLETED,
    )
    reveal_type(done.replies)  # N: "tuple[accounts_pb2.DebitReply, accounts_pb2.CreditReply]"
    receipt, _ = done.replies
    reveal_type(receipt.available)  # N: "int"
    reveal_type(done.gid)  # N: "str"
    return receipt.reservation_id


async def eight_and_more(manager: tcc.Manager) -> None:
    bank = AccountsStub(tcc.plan)
    d, c = bank.TryDebit(debit), bank.TryCredit(credit)
    eight = await manager.execute(d, c, d, c, d, c, d, c)
    reveal_type(eight.replies[7])  # N: "accounts_pb2.CreditReply"
    calls = [bank.TryDebit(debit) for _ in range(20)]
    many = await manager.execute(*calls, name="many")
    reveal_type(many.replies)  # N: "tuple[Any, ...]"


async def wrong(manager: tcc.Manager) -> None:
    bank = AccountsStub(tcc.plan)
    bank.TryDebit(credit)  # E: has incompatible type "CreditRequest"; expected "DebitRequest"
    done = await manager.execute(bank.TryDebit(debit), bank.TryCredit(credit))
    reply: CreditReply = done.replies[0]  # E: expression has type "DebitReply", variable has type "CreditReply"
    done.replies[1].available  # E: "CreditReply" has no attribute "available"
    first, second, third = done.replies  # E: Need more than 2 values to unpack (3 expected)
    (alone,) = done.replies  # E: Too many values to unpack (1 expected, 2 provided)
    done.replies[2]  # E: Tuple index out of range
    await manager.execute(debit)  # E: No overload variant of "execute" of "Manager" matches
    await manager.execute(bank.TryDebit(debit), wait=True)  # E: No overload variant of "execute"
    await manager.execute(bank.TryDebit(debit), timeout="5 s")  # E: No overload variant of "execute"
    tcc.Manger  # E: has no attribute "Manger"
    bank.TryWithdraw(debit)  # E: has no attribute "TryWithdraw"


def is_a_channel() -> grpc.aio.Channel:
    return tcc.plan
