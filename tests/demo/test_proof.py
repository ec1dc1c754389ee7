"""The proof can fail: each kind of harm, made up, is found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import tcc
from services.demo._banks import Books
from services.demo._proof import BankKill, Check, Facts, Found, ManagerKill, prove
from services.demo._transfers import Told, Transfer

PAID = Transfer("t-1", "bank-a", "ann", "bank-b", "ben", 30, "")
BACK = Transfer("t-2", "bank-b", "ben", "bank-a", "ann", 10, "")
POOR = Transfer("t-3", "bank-a", "kim", "bank-b", "ben", 50, "FAILED_PRECONDITION")

CONFIRMED = Found(tcc.State.CONFIRMED, tcc.Decision.CONFIRM, attention=False)
CANCELLED = Found(tcc.State.CANCELLED, tcc.Decision.CANCEL, attention=False)

GOOD = Facts(
    transfers=(PAID, BACK, POOR),
    told={
        "t-1": Told(tcc.Decision.CONFIRM),
        "t-2": Told(tcc.Decision.CONFIRM),
        "t-3": Told(tcc.Decision.CANCEL, "FAILED_PRECONDITION", "account kim has less"),
    },
    found={"t-1": CONFIRMED, "t-2": CONFIRMED, "t-3": CANCELLED},
    left_open=(),
    before={"bank-a": Books({"ann": 100, "kim": 5}, 105, 0, 0), "bank-b": Books({"ben": 100}, 100, 0, 0)},
    after={"bank-a": Books({"ann": 80, "kim": 5}, 85, 0, 0), "bank-b": Books({"ben": 120}, 120, 0, 0)},
    bank_kill=BankKill("t-1", "bank-a", -9, "TRIED", tcc.Decision.CONFIRM, settled=False),
    manager_kill=ManagerKill(("t-1", "t-2"), (), -9),
)

MONEY = "no money was lost or made"
BALANCES = "every account has what its transfers say"
RESERVED = "nothing is left reserved"
FINAL = "no transaction is open or needs a person"
ANSWERS = "every client was told what was decided"
MADE = "every transfer that could be made was made"
REFUSED = "every other was refused, and its client told why"
BANK = "a bank was killed between Try and Confirm"
MANAGER = "the manager was killed with work under way"


def with_bank(**changes: object) -> Callable[[Facts], Facts]:
    """bank-a's books after all, otherwise."""
    return lambda facts: replace(
        facts, after={**facts.after, "bank-a": replace(facts.after["bank-a"], **changes)}  # type: ignore[arg-type]  # fields by name
    )  # fmt: skip


def with_told(gid: str, told: Told) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, told={**facts.told, gid: told})


def with_found(gid: str, found: Found) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, found={**facts.found, gid: found})


def with_bank_kill(**changes: object) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, bank_kill=replace(facts.bank_kill, **changes))  # type: ignore[arg-type]  # fields by name


def with_manager_kill(**changes: object) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, manager_kill=replace(facts.manager_kill, **changes))  # type: ignore[arg-type]  # fields by name


def broken(checks: list[Check]) -> set[str]:
    return {check.claim for check in checks if not check.holds}


def test_what_went_well_holds() -> None:
    checks = prove(GOOD)
    assert broken(checks) == set()
    assert {check.claim for check in checks} == {
        MONEY, BALANCES, RESERVED, FINAL, ANSWERS, MADE, REFUSED, BANK, MANAGER
    }  # fmt: skip


HARM = {
    "money is lost": (with_bank(balances={"ann": 79, "kim": 5}, available=84), {MONEY, BALANCES}, "0.01 were lost"),
    "money is made": (with_bank(balances={"ann": 81, "kim": 5}, available=86), {MONEY, BALANCES}, "0.01 were made"),
    "the sum is right, but who has it is wrong": (
        with_bank(balances={"ann": 79, "kim": 6}),
        {BALANCES},
        "kim at bank-a has 0.06 and should have 0.05",
    ),
    "money is left reserved": (
        with_bank(balances={"ann": 50, "kim": 5}, available=55, reserved=30),
        {RESERVED, BALANCES},
        "bank-a keeps 0.30 aside",
    ),
    "a fence is left with a reservation": (with_bank(tried=1), {RESERVED}, "the fence of bank-a holds 1"),
    "a transaction is open": (lambda facts: replace(facts, left_open=("t-9",)), {FINAL}, "t-9 is open"),
    "a transaction never ended": (
        with_found("t-2", Found(tcc.State.CONFIRMING, tcc.Decision.CONFIRM, attention=False)),
        {FINAL, ANSWERS},
        "t-2 is CONFIRMING",
    ),
    "a transaction needs a person": (
        with_found("t-2", replace(CONFIRMED, attention=True)),
        {FINAL},
        "t-2 is CONFIRMED and needs attention",
    ),
    "a client was told otherwise": (
        with_found("t-2", CANCELLED),
        {ANSWERS},
        "the client of t-2 was told CONFIRM, the manager says CANCELLED",
    ),
    "a transaction is mixed": (
        with_found("t-2", Found(tcc.State.MIXED, tcc.Decision.CONFIRM, attention=True)),
        {ANSWERS, FINAL},
        "the manager says MIXED",
    ),
    "the manager forgot one": (
        lambda facts: replace(facts, found={"t-1": CONFIRMED, "t-3": CANCELLED}),
        {ANSWERS},
        "the manager does not know t-2",
    ),
    "a client got no answer": (
        with_told("t-2", Told(None, text="no answer about transaction t-2")),
        {ANSWERS, MADE, BALANCES},
        "the client of t-2 got no answer: no answer about",
    ),
    "a client was never heard of": (
        lambda facts: replace(facts, told={gid: told for gid, told in facts.told.items() if gid != "t-3"}),
        {ANSWERS, REFUSED},
        "the client of t-3 got no answer",
    ),
    "somebody with money could not pay": (
        with_told("t-2", Told(tcc.Decision.CANCEL, "DEADLINE_EXCEEDED", "too late")),
        {MADE, ANSWERS, BALANCES},
        "t-2 did not go through: DEADLINE_EXCEEDED too late",
    ),
    "a refusal without a text": (
        with_told("t-3", Told(tcc.Decision.CANCEL, "FAILED_PRECONDITION", "")),
        {REFUSED},
        "t-3 should be refused with FAILED_PRECONDITION",
    ),
    "a refusal with another code": (
        with_told("t-3", Told(tcc.Decision.CANCEL, "UNAVAILABLE", "gone")),
        {REFUSED},
        "t-3 should be refused with FAILED_PRECONDITION",
    ),
    "nothing was refused": (
        lambda facts: replace(facts, transfers=(PAID, BACK)),
        {REFUSED},
        "no transfer was bound to be refused",
    ),
    "the bank was not killed": (with_bank_kill(exit_code=0), {BANK}, "bank-a ended with 0"),
    "the bank was killed before its Try": (with_bank_kill(fence=""), {BANK}, "bank-a held nothing for t-1"),
    "the bank was killed after its Confirm": (with_bank_kill(fence="CONFIRMED"), {BANK}, "held CONFIRMED"),
    "nothing was decided while the bank was dead": (with_bank_kill(decision=None), {BANK}, "was not confirmed while"),
    "the bank was not dead": (with_bank_kill(settled=True), {BANK}, "bank-a had carried out t-1"),
    "the manager was not killed": (with_manager_kill(exit_code=143), {MANAGER}, "it ended with 143"),
    "the manager was idle": (with_manager_kill(open_gids=("t-1",)), {MANAGER}, "only 1 transfers"),
    "its clients had been answered": (with_manager_kill(answered=("t-2",)), {MANAGER}, "the client of t-2 had"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "claims", "words"), HARM.values(), ids=HARM)
def test_harm_is_found_and_named(harm: Callable[[Facts], Facts], claims: set[str], words: str) -> None:
    checks = prove(harm(GOOD))
    assert broken(checks) == claims
    assert any(words in text for check in checks for text in check.broken)
