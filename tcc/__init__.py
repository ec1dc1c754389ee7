"""The TCC toolkit's SDK: clients call a TCC manager, participants offer Try, Confirm and Cancel.

Names load when they are first used, so that `import tcc.v1.options_pb2` in generated code stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcc.client._executed import Executed as Executed
    from tcc.client._interactive import Transaction as Transaction
    from tcc.client._manager import Manager as Manager
    from tcc.client._plan import plan as plan
    from tcc.client._views import (
        COMPLETED as COMPLETED,
        DECIDED as DECIDED,
        BranchView as BranchView,
        CancelReason as CancelReason,
        Decision as Decision,
        HistoryView as HistoryView,
        Outcome as Outcome,
        State as State,
        TransactionView as TransactionView,
        TryResult as TryResult,
        Wait as Wait,
    )
    from tcc.errors import (
        BranchRefused as BranchRefused,
        GidReused as GidReused,
        ManagerError as ManagerError,
        ManagerUnavailable as ManagerUnavailable,
        NeverExecutedWarning as NeverExecutedWarning,
        OutcomeUnknown as OutcomeUnknown,
        Refused as Refused,
        TccError as TccError,
        TransactionCancelled as TransactionCancelled,
        TransactionMixed as TransactionMixed,
        UsageError as UsageError,
    )
    from tcc.fence import MemoryFence as MemoryFence, SqlFence as SqlFence
    from tcc.lock import NoLock as NoLock
    from tcc.lock._redis import RedisLock as RedisLock
    from tcc.participant import (
        Branch as Branch,
        ParticipantServer as ParticipantServer,
        batchable as batchable,
        branch as branch,
    )

_HOME = {
    "batchable": "tcc.participant",
    "branch": "tcc.participant",
    "Branch": "tcc.participant",
    "BranchRefused": "tcc.errors",
    "BranchView": "tcc.client._views",
    "CancelReason": "tcc.client._views",
    "COMPLETED": "tcc.client._views",
    "DECIDED": "tcc.client._views",
    "Decision": "tcc.client._views",
    "Executed": "tcc.client._executed",
    "GidReused": "tcc.errors",
    "HistoryView": "tcc.client._views",
    "Manager": "tcc.client._manager",
    "ManagerError": "tcc.errors",
    "ManagerUnavailable": "tcc.errors",
    "MemoryFence": "tcc.fence",
    "NeverExecutedWarning": "tcc.errors",
    "NoLock": "tcc.lock",
    "Outcome": "tcc.client._views",
    "OutcomeUnknown": "tcc.errors",
    "ParticipantServer": "tcc.participant",
    "plan": "tcc.client._plan",
    "RedisLock": "tcc.lock._redis",
    "Refused": "tcc.errors",
    "SqlFence": "tcc.fence",
    "State": "tcc.client._views",
    "TccError": "tcc.errors",
    "Transaction": "tcc.client._interactive",
    "TransactionCancelled": "tcc.errors",
    "TransactionMixed": "tcc.errors",
    "TransactionView": "tcc.client._views",
    "TryResult": "tcc.client._views",
    "UsageError": "tcc.errors",
    "Wait": "tcc.client._views",
}

__all__ = sorted(_HOME)


if not TYPE_CHECKING:  # a type checker would take a mistyped name for one that loads later

    def __getattr__(name: str) -> object:
        try:
            home = _HOME[name]
        except KeyError:
            raise AttributeError(f"module 'tcc' has no attribute {name!r}") from None
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
