"""The contract's tables, as data: what a Try's status means, what an outcome means, which state follows which.

Everything that says what an answer *means* lives here; `decide` only looks it up. Status codes are gRPC's numbers,
because the core knows no gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tcc_server.core.model import Decision, OutcomeKind, Reservation, Settlement, State

OK: Final = 0
UNKNOWN: Final = 2
DEADLINE_EXCEEDED: Final = 4
UNAVAILABLE: Final = 14

# FAILED_PRECONDITION NOT_FOUND INVALID_ARGUMENT OUT_OF_RANGE ALREADY_EXISTS PERMISSION_DENIED
_FAILED = (9, 5, 3, 11, 6, 7)
# ABORTED RESOURCE_EXHAUSTED CANCELLED UNAUTHENTICATED UNIMPLEMENTED
_STOPPED = (10, 8, 1, 16, 12)
# UNAVAILABLE DEADLINE_EXCEEDED UNKNOWN INTERNAL DATA_LOSS
_BROKEN = (UNAVAILABLE, DEADLINE_EXCEEDED, UNKNOWN, 13, 15)

# What a Try's status means: with `tcc-refused: 1`, and without.
TRY_STATUS: Final[dict[int, tuple[Reservation, Reservation]]] = {
    OK: (Reservation.RESERVED, Reservation.RESERVED),
    **dict.fromkeys(_FAILED, (Reservation.REFUSED, Reservation.DECLINED)),
    **dict.fromkeys(_STOPPED, (Reservation.REFUSED, Reservation.UNKNOWN)),
    **dict.fromkeys(_BROKEN, (Reservation.UNKNOWN, Reservation.UNKNOWN)),
}


def try_means(code: int, *, marked: bool) -> Reservation:
    """What a Try's answer says of the reservation. A code that nobody knows says nothing."""
    with_mark, without = TRY_STATUS.get(code, (Reservation.UNKNOWN, Reservation.UNKNOWN))
    return with_mark if marked else without


@dataclass(frozen=True, slots=True)
class OutcomeRule:
    """What an outcome of a command means.

    Attributes:
        settles: how the branch is settled; None: the command is sent again.
        is_failure: counts towards attention, and makes the backoff grow.
        wants_person: raises attention at once, and is retried slowly.
    """

    settles: Settlement | None = None
    is_failure: bool = False
    wants_person: bool = False


OUTCOME: Final[dict[OutcomeKind, OutcomeRule]] = {
    OutcomeKind.DONE: OutcomeRule(settles=Settlement.DONE),
    OutcomeKind.CONTRADICTED: OutcomeRule(settles=Settlement.CONTRADICTED),
    OutcomeKind.BUSY: OutcomeRule(),
    OutcomeKind.RETRY: OutcomeRule(is_failure=True),
    OutcomeKind.NO_TRY: OutcomeRule(is_failure=True, wants_person=True),
}

# What the decision makes of a transaction, and of each branch by what is known of its reservation.
DECIDED: Final[dict[Decision, State]] = {Decision.CONFIRM: State.CONFIRMING, Decision.CANCEL: State.CANCELLING}
FINISHED: Final[dict[State, State]] = {State.CONFIRMING: State.CONFIRMED, State.CANCELLING: State.CANCELLED}
DECISION_OF: Final[dict[State, Decision]] = {state: decision for decision, state in DECIDED.items()}

OWED: Final[dict[tuple[Decision, Reservation], Settlement | None]] = {
    (Decision.CONFIRM, Reservation.RESERVED): Settlement.OPEN,
    (Decision.CONFIRM, Reservation.REFUSED): Settlement.NOTHING_OWED,
    # No decision to confirm may be taken over one of these.
    (Decision.CONFIRM, Reservation.PENDING): None,
    (Decision.CONFIRM, Reservation.DECLINED): None,
    (Decision.CONFIRM, Reservation.UNKNOWN): None,
    # Whatever may hold something is cancelled: a Try that timed out is unknown, not undone.
    (Decision.CANCEL, Reservation.RESERVED): Settlement.OPEN,
    (Decision.CANCEL, Reservation.PENDING): Settlement.OPEN,
    (Decision.CANCEL, Reservation.DECLINED): Settlement.OPEN,
    (Decision.CANCEL, Reservation.UNKNOWN): Settlement.OPEN,
    (Decision.CANCEL, Reservation.REFUSED): Settlement.NOTHING_OWED,
}


def lets_confirm(reservation: Reservation) -> bool:
    """Whether a branch with that reservation does not stand in the way of a Confirm."""
    return OWED[Decision.CONFIRM, reservation] is not None
