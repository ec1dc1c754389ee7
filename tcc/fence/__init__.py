"""The fence makes every effect happen once: it keeps each branch's state in the service's own transaction."""

from tcc.fence._memory import MemoryFence
from tcc.fence._rules import TABLE, Phase, Rule, State
from tcc.fence._seam import (
    DEFAULT_RETENTION,
    Body,
    Fence,
    FenceBusy,
    FenceUnavailable,
    Record,
    Refusal,
    Verdict,
    Visit,
)
from tcc.fence._sql import SqlFence
from tcc.fence._table import FENCE_TABLE, METADATA, ddl

__all__ = [
    "DEFAULT_RETENTION",
    "FENCE_TABLE",
    "METADATA",
    "TABLE",
    "Body",
    "Fence",
    "FenceBusy",
    "FenceUnavailable",
    "MemoryFence",
    "Phase",
    "Record",
    "Refusal",
    "Rule",
    "SqlFence",
    "State",
    "Verdict",
    "Visit",
    "ddl",
]
