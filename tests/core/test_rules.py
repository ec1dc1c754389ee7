"""The contract's tables, cell by cell, as CONTRACT.md prints them."""

import grpc
import pytest

from tcc_server.core import rules
from tcc_server.core.model import Decision, OutcomeKind, Reservation, Settlement

R = Reservation

TRY_TABLE = {
    "OK": (R.RESERVED, R.RESERVED),
    "FAILED_PRECONDITION": (R.REFUSED, R.DECLINED),
    "NOT_FOUND": (R.REFUSED, R.DECLINED),
    "INVALID_ARGUMENT": (R.REFUSED, R.DECLINED),
    "OUT_OF_RANGE": (R.REFUSED, R.DECLINED),
    "ALREADY_EXISTS": (R.REFUSED, R.DECLINED),
    "PERMISSION_DENIED": (R.REFUSED, R.DECLINED),
    "ABORTED": (R.REFUSED, R.UNKNOWN),
    "RESOURCE_EXHAUSTED": (R.REFUSED, R.UNKNOWN),
    "CANCELLED": (R.REFUSED, R.UNKNOWN),
    "UNAUTHENTICATED": (R.REFUSED, R.UNKNOWN),
    "UNIMPLEMENTED": (R.REFUSED, R.UNKNOWN),
    "UNAVAILABLE": (R.UNKNOWN, R.UNKNOWN),
    "DEADLINE_EXCEEDED": (R.UNKNOWN, R.UNKNOWN),
    "UNKNOWN": (R.UNKNOWN, R.UNKNOWN),
    "INTERNAL": (R.UNKNOWN, R.UNKNOWN),
    "DATA_LOSS": (R.UNKNOWN, R.UNKNOWN),
}


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
@pytest.mark.parametrize("marked", [True, False], ids=["marked", "unmarked"])
def test_every_status_of_a_try_means_what_the_contract_says(code: grpc.StatusCode, marked: bool) -> None:
    expected = TRY_TABLE[code.name][0 if marked else 1]
    assert rules.try_means(code.value[0], marked=marked) is expected


def test_a_status_code_that_nobody_knows_tells_nothing() -> None:
    assert rules.try_means(99, marked=True) is R.UNKNOWN


@pytest.mark.parametrize(
    ("kind", "settles", "is_failure", "wants_person"),
    [
        (OutcomeKind.DONE, Settlement.DONE, False, False),
        (OutcomeKind.CONTRADICTED, Settlement.CONTRADICTED, False, False),
        (OutcomeKind.BUSY, None, False, False),
        (OutcomeKind.RETRY, None, True, False),
        (OutcomeKind.NO_TRY, None, True, True),
    ],
)
def test_every_outcome_means_what_the_contract_says(
    kind: OutcomeKind, settles: Settlement | None, is_failure: bool, wants_person: bool
) -> None:
    assert rules.OUTCOME[kind] == rules.OutcomeRule(settles, is_failure, wants_person)


@pytest.mark.parametrize("reservation", list(Reservation))
def test_a_cancel_goes_to_every_branch_but_those_that_marked_their_refusal(reservation: Reservation) -> None:
    owed = rules.OWED[Decision.CANCEL, reservation]
    assert owed is (Settlement.NOTHING_OWED if reservation is R.REFUSED else Settlement.OPEN)


@pytest.mark.parametrize("reservation", list(Reservation))
def test_only_a_reserved_or_a_marked_branch_lets_a_confirm_be_decided(reservation: Reservation) -> None:
    assert rules.lets_confirm(reservation) is (reservation in (R.RESERVED, R.REFUSED))
