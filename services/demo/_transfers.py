"""The transfers: which there are, how a client asks the manager for one, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass

import tcc
from services.accounts.v1.accounts_pb2 import CreditRequest, DebitRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from services.demo._banks import OPENING

COUNT = 40
BANKS = ("bank-a", "bank-b")
_RICH = [account for account, cents in OPENING.items() if cents >= 1_000_00]
_POOR = "kim"
_NOBODY = "zoe"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that shall go from an account at one bank to an account at the other.

    Attributes:
        gid: the transaction's id.
        payer: the account that pays, at `source`.
        payee: the account that gets, at `target`.
        amount: cents.
        refused_with: the code with which a bank is sure to refuse it, whatever the other transfers do; "" for none.
    """

    gid: str
    source: str
    payer: str
    target: str
    payee: str
    amount: int
    refused_with: str

    @property
    def debit(self) -> DebitRequest:
        """What the source is asked."""
        return DebitRequest(account=self.payer, amount=self.amount)

    @property
    def credit(self) -> CreditRequest:
        """What the target is asked."""
        return CreditRequest(account=self.payee, amount=self.amount, reference=self.gid)


@dataclass(frozen=True, slots=True)
class Told:
    """What the client was told of a transfer.

    Attributes:
        decision: CONFIRM or CANCEL; None where it got no answer.
        code: the name of the gRPC status with which a bank refused; "" where none did.
        text: the bank's text, or what went wrong.
    """

    decision: tcc.Decision | None
    code: str = ""
    text: str = ""


def transfers(banks: tuple[str, str] = BANKS, gids: str = "t") -> tuple[Transfer, ...]:
    """All of them, to and fro between two banks; their gids begin as told.

    Some are by someone who hasn't the money, and some to an account that there isn't: then the payer's money may be
    reserved already, and must be given back.
    """
    made = []
    for number in range(1, COUNT + 1):
        source, target = banks if number % 2 == 0 else reversed(banks)
        payer, payee, refused_with = _RICH[number % len(_RICH)], _RICH[number // 2 % len(_RICH)], ""
        if number % 7 == 3:
            payer, refused_with = _POOR, "FAILED_PRECONDITION"
        elif number % 9 == 4:
            payee, refused_with = _NOBODY, "NOT_FOUND"
        amount = 10_00 + number * 37 % 40 * 1_00
        made.append(Transfer(f"{gids}-{number:02}", source, payer, target, payee, amount, refused_with))
    return tuple(made)


async def carry_out(manager: tcc.Manager, transfer: Transfer) -> Told:
    """One transfer as a plan: the manager reserves at both banks at once, and decides."""
    source = AccountsStub(tcc.plan.participant(transfer.source))
    target = AccountsStub(tcc.plan.participant(transfer.target))
    try:
        await manager.execute(
            source.TryDebit(transfer.debit), target.TryCredit(transfer.credit), name="transfer", gid=transfer.gid
        )
    except tcc.TransactionCancelled as cancelled:
        return told_of(cancelled)
    except tcc.TccError as error:
        return Told(None, text=str(error))
    return Told(tcc.Decision.CONFIRM)


def told_of(cancelled: tcc.TransactionCancelled) -> Told:
    """A cancelled transaction carries who refused, and why."""
    if not cancelled.refusals:
        return Told(tcc.Decision.CANCEL, text=str(cancelled))
    first = cancelled.refusals[0]
    return Told(tcc.Decision.CANCEL, first.code().name, first.details() or "")
