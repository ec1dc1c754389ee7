"""What spans of messages say of the branch that a command or an outcome is about."""

from __future__ import annotations

from tcc.tracing import Tags
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome

_PHASES = {transaction_pb2.PHASE_CONFIRM: "confirm", transaction_pb2.PHASE_CANCEL: "cancel"}


def tags_of(carried: Command | Outcome) -> Tags:
    """The branch, phase and attempt of a command or an outcome."""
    participant = carried.participant if isinstance(carried, Command) else ""
    return Tags(carried.gid, carried.branch, _PHASES.get(carried.phase, ""), carried.attempt, participant)


def outcome_kind(outcome: Outcome) -> str:
    """An outcome's kind, for people: DONE, BUSY, ..."""
    return transaction_pb2.OutcomeKind.Name(outcome.kind).removeprefix("OUTCOME_KIND_")
