"""The fence makes every effect happen once: it keeps each branch's state in the service's own transaction."""

from tcc.fence._memory import MemoryFence
from tcc.fence._rules import TABLE, Phase, Rule, State
from tcc.fence._seam import (
    DEFAULT_RETENTION,
    Body,
    Expiring,
    Fence,
    FenceBusy,
    FenceUnavailable,
    Listed,
    ListFence,
    Record,
    Refusal,
    Result,
    Verdict,
    Visit,
    VisitAlone,
    VisitLater,
)
from tcc.fence._sharing import SharedVisits
from tcc.fence._sql import SqlFence
from tcc.fence._table import FENCE_TABLE, METADATA, ddl

__all__ = [
    "DEFAULT_RETENTION",
    "FENCE_TABLE",
    "METADATA",
    "TABLE",
    "Body",
    "Expiring",
    "Fence",
    "FenceBusy",
    "FenceUnavailable",
    "ListFence",
    "Listed",
    "MemoryFence",
    "Phase",
    "Record",
    "Refusal",
    "Result",
    "Rule",
    "SharedVisits",
    "SqlFence",
    "State",
    "Verdict",
    "Visit",
    "VisitAlone",
    "VisitLater",
    "ddl",
]
