"""The TCC toolkit's SDK: clients call a TCC manager, participants offer Try, Confirm and Cancel.

Names load when they are first used, so that `import tcc.v1.options_pb2` in generated code stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcc.errors import (
        BranchRefused as BranchRefused,
        GidReused as GidReused,
        ManagerError as ManagerError,
        ManagerUnavailable as ManagerUnavailable,
        OutcomeUnknown as OutcomeUnknown,
        Refused as Refused,
        TccError as TccError,
        TransactionCancelled as TransactionCancelled,
        TransactionMixed as TransactionMixed,
        UsageError as UsageError,
    )

_HOME = {
    "BranchRefused": "tcc.errors",
    "GidReused": "tcc.errors",
    "ManagerError": "tcc.errors",
    "ManagerUnavailable": "tcc.errors",
    "OutcomeUnknown": "tcc.errors",
    "Refused": "tcc.errors",
    "TccError": "tcc.errors",
    "TransactionCancelled": "tcc.errors",
    "TransactionMixed": "tcc.errors",
    "UsageError": "tcc.errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'tcc' has no attribute {name!r}") from None
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
