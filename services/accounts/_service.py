"""A bank's accounts: money leaves in two steps (kept aside, then gone) and comes in in two (announced, then there).

Each handler is called in the transaction of `fence.session`. It need not think of repeated, late or concurrent calls:
the fence lets each effect happen once. All of them touch that session alone, so calls that come together share one
transaction.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty
from sqlalchemy import BindParameter, Executable, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

import tcc
from services.accounts._database import ACCOUNTS as A
from services.accounts.v1 import accounts_pb2 as pb, accounts_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

# What the handlers do, each in one statement that returns a row if it did it. Written once, it is compiled once.

_NAME: Final[BindParameter[str]] = bindparam("name")
_AMOUNT: Final[BindParameter[int]] = bindparam("amount")
_OF_IT: Final = update(A).where(A.c.account == _NAME).returning(A.c.available)

_FIND: Final = select(A.c.account).where(A.c.account == _NAME)
_KEEP: Final = _OF_IT.where(A.c.available >= _AMOUNT).values(
    available=A.c.available - _AMOUNT, reserved=A.c.reserved + _AMOUNT
)
_LET_GO: Final = _OF_IT.values(reserved=A.c.reserved - _AMOUNT)
_GIVE_BACK: Final = _OF_IT.values(available=A.c.available + _AMOUNT, reserved=A.c.reserved - _AMOUNT)
_ADD: Final = _OF_IT.values(available=A.c.available + _AMOUNT)


class Accounts(accounts_pb2_grpc.AccountsServicer):
    """The service, on the fence's database."""

    def __init__(self, fence: tcc.SqlFence) -> None:
        self._fence = fence

    # Money out.

    @tcc.batchable
    async def TryDebit(self, request: pb.DebitRequest, context: Context) -> pb.DebitReply:
        """Keeps the money aside, if there is enough."""
        _check_amount(request.amount)
        kept = await self._fence.first(_KEEP, name=request.account, amount=request.amount)
        if kept is None:
            await self._check_exists(request.account)
            raise tcc.Refused(f"account {request.account} has less than {request.amount} cents available")
        return pb.DebitReply(reservation_id=_reservation(), available=kept[0])

    @tcc.batchable
    async def ConfirmDebit(self, request: pb.DebitRequest, context: Context) -> Empty:
        """The money is gone."""
        await self._change(_LET_GO, request.account, request.amount)
        return Empty()

    @tcc.batchable
    async def CancelDebit(self, request: pb.DebitRequest, context: Context) -> Empty:
        """The money can be spent again."""
        await self._change(_GIVE_BACK, request.account, request.amount)
        return Empty()

    # Money in.

    @tcc.batchable
    async def TryCredit(self, request: pb.CreditRequest, context: Context) -> pb.CreditReply:
        """Promises to take the money: all that could stand in the way is an unknown account."""
        _check_amount(request.amount)
        await self._check_exists(request.account)
        return pb.CreditReply(reservation_id=_reservation())

    @tcc.batchable
    async def ConfirmCredit(self, request: pb.CreditRequest, context: Context) -> Empty:
        """The money is there."""
        await self._change(_ADD, request.account, request.amount)
        return Empty()

    @tcc.batchable
    async def CancelCredit(self, request: pb.CreditRequest, context: Context) -> Empty:
        """Nothing was kept, so there is nothing to give back."""
        return Empty()

    # Outside of transactions.

    async def OpenAccount(self, request: pb.OpenAccountRequest, context: Context) -> pb.Account:
        """Opens an account; opening it again with the same amount changes nothing."""
        if not request.account or request.available < 0:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an account needs a name and zero or more cents")
        opened = insert(A).values(
            account=request.account, opened_with=request.available, available=request.available, reserved=0
        )
        with suppress(IntegrityError):  # it is there already
            async with self._fence.begin() as connection:
                await connection.execute(opened)
        async with self._fence.engine.connect() as connection:
            row = (await connection.execute(select(A).where(A.c.account == request.account))).one()
        if row.opened_with != request.available:
            await context.abort(
                grpc.StatusCode.ALREADY_EXISTS, f"account {row.account} was opened with {row.opened_with} cents"
            )
        return pb.Account(account=row.account, available=row.available, reserved=row.reserved)

    async def GetAccount(self, request: pb.GetAccountRequest, context: Context) -> pb.Account:
        """One account."""
        async with self._fence.engine.connect() as connection:
            row = (await connection.execute(select(A).where(A.c.account == request.account))).one_or_none()
        if row is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no account {request.account}")
        return pb.Account(account=row.account, available=row.available, reserved=row.reserved)

    async def GetTotals(self, request: pb.GetTotalsRequest, context: Context) -> pb.Totals:
        """The sums over all accounts."""
        sums = select(func.count(), func.coalesce(func.sum(A.c.available), 0), func.coalesce(func.sum(A.c.reserved), 0))
        async with self._fence.engine.connect() as connection:
            accounts, available, reserved = (await connection.execute(sums)).one()
        return pb.Totals(accounts=accounts, available=int(available), reserved=int(reserved))  # decimals on PostgreSQL

    async def _check_exists(self, account: str) -> None:
        if await self._fence.first(_FIND, name=account) is None:
            raise tcc.Refused(f"there is no account {account}", grpc.StatusCode.NOT_FOUND)

    async def _change(self, change: Executable, account: str, amount: int) -> None:
        if await self._fence.first(change, name=account, amount=amount) is None:
            # Its Try found the account, and accounts are never closed.
            raise RuntimeError("the account of a reservation is gone")


def _check_amount(amount: int) -> None:
    if amount <= 0:
        raise tcc.Refused(f"an amount must be positive, not {amount}", grpc.StatusCode.INVALID_ARGUMENT)


def _reservation() -> str:
    branch = tcc.branch()
    return f"{branch.gid}/{branch.step}"
