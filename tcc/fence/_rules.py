"""The fence's rules: what each phase does to a branch in each state.

This file holds the whole table of CONTRACT.md, "Fence", as data, and the two questions that come before it (is this the
same action, and the same request?). Nothing here reads a clock or a database: whoever owns the row asks, and obeys.

    state       Try         Confirm        Cancel
    none        RUN         NO_TRY         RECORD
    TRIED       REPLY       RUN            RUN
    REFUSED     REFUSE      NO_TRY         DONE
    CONFIRMED   REPLY       DONE           CONTRADICTED
    CANCELLED   LATE_TRY    CONTRADICTED   DONE
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from typing import Final


class Phase(StrEnum):
    """One of an action's three calls, in the wire's spelling."""

    TRY = "try"
    CONFIRM = "confirm"
    CANCEL = "cancel"


class State(StrEnum):
    """What a fence row says of its branch; no row is None."""

    TRIED = "TRIED"
    REFUSED = "REFUSED"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"


class Rule(Enum):
    """What to do with a visit."""

    RUN = auto()
    """Run the business code, then write the phase's state (for a Try that refuses: REFUSED)."""
    RECORD = auto()
    """Write CANCELLED without business code: a Cancel that came before its Try."""
    REPLY = auto()
    """Answer with the stored Try reply."""
    REFUSE = auto()
    """Answer with the stored refusal."""
    LATE_TRY = auto()
    """Refuse: the branch was cancelled before."""
    DONE = auto()
    """The phase's effect stands already."""
    NO_TRY = auto()
    """There is nothing to confirm; write nothing."""
    CONTRADICTED = auto()
    """The row says the opposite of the decision; write nothing."""
    MISMATCH = auto()
    """The ids were used with another action or request; write nothing."""


TABLE: Final[dict[tuple[State | None, Phase], Rule]] = {
    (None, Phase.TRY): Rule.RUN,
    (None, Phase.CONFIRM): Rule.NO_TRY,
    (None, Phase.CANCEL): Rule.RECORD,
    (State.TRIED, Phase.TRY): Rule.REPLY,
    (State.TRIED, Phase.CONFIRM): Rule.RUN,
    (State.TRIED, Phase.CANCEL): Rule.RUN,
    (State.REFUSED, Phase.TRY): Rule.REFUSE,
    (State.REFUSED, Phase.CONFIRM): Rule.NO_TRY,
    (State.REFUSED, Phase.CANCEL): Rule.DONE,
    (State.CONFIRMED, Phase.TRY): Rule.REPLY,
    (State.CONFIRMED, Phase.CONFIRM): Rule.DONE,
    (State.CONFIRMED, Phase.CANCEL): Rule.CONTRADICTED,
    (State.CANCELLED, Phase.TRY): Rule.LATE_TRY,
    (State.CANCELLED, Phase.CONFIRM): Rule.CONTRADICTED,
    (State.CANCELLED, Phase.CANCEL): Rule.DONE,
}

AFTER: Final[dict[Phase, State]] = {
    Phase.TRY: State.TRIED,
    Phase.CONFIRM: State.CONFIRMED,
    Phase.CANCEL: State.CANCELLED,
}
"""The state that a phase's effect leaves."""


def same_content(stored_action: str, stored_hash: bytes, action: str, request_hash: bytes) -> bool:
    """Whether a visit is about what the row is about.

    An empty action is not known to its sender (a Confirm or Cancel by gRPC for a method that the service does not have)
    and matches any.
    """
    return stored_hash == request_hash and (stored_action == action or not stored_action or not action)
