"""Why the engine does not do what it was asked.

EngineError
├── UnknownTransaction    no such gid
├── GidInUse              the gid names a transaction with other content
├── StepInUse             the step names a branch with other content
├── AlreadyDecided        the decision was taken, and it is another one
├── NotInteractive        a plan decides itself
├── Overloaded            too many transactions are open; nothing was begun
├── TooMuch               one branch more than the limit, or more payload
├── Rejected              the log will never take this transaction
├── Draining              this manager is about to stop
├── Unreadable            its row in the log is damaged
└── Unsettled             nobody can say yet what is in the log
"""

from __future__ import annotations

from tcc_server.core.model import Key, Transaction


class EngineError(Exception):
    """Base of the engine's errors."""

    def __init__(self, key: Key, message: str) -> None:
        super().__init__(message)
        self.key = key


class UnknownTransaction(EngineError):
    """No transaction has this gid."""

    def __init__(self, key: Key) -> None:
        super().__init__(key, f"there is no transaction {key.gid}: begin it first, or check the gid")


class GidInUse(EngineError):
    """The gid names a transaction with other content; `difference` says what differs."""

    def __init__(self, key: Key, difference: str) -> None:
        super().__init__(key, f"gid {key.gid} is in use by another transaction: {difference}")
        self.difference = difference


class StepInUse(EngineError):
    """The step names a branch with other content."""

    def __init__(self, key: Key, step: str, difference: str) -> None:
        super().__init__(key, f"step {step!r} of transaction {key.gid} is another branch: {difference}")


class AlreadyDecided(EngineError):
    """The decision was taken before; `tx` is the transaction as decided."""

    def __init__(self, tx: Transaction, message: str) -> None:
        super().__init__(tx.key, message)
        self.tx = tx


class NotInteractive(EngineError):
    """A plan decides itself: it takes no further Try and no Confirm."""

    def __init__(self, key: Key) -> None:
        super().__init__(
            key, f"transaction {key.gid} is a plan of Execute, which decides itself: only Cancel, Get and Watch apply"
        )


class Overloaded(EngineError):
    """Too many transactions are open: nothing was begun, ask again later."""

    def __init__(self, key: Key, count: int) -> None:
        super().__init__(
            key, f"{count} transactions are open, which is the limit: nothing was begun, ask again in a moment"
        )


class TooMuch(EngineError):
    """A limit of the transaction as a whole would be passed."""


class Rejected(EngineError):
    """The log will never take this transaction."""

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__(key, f"transaction {key.gid} cannot be stored: {reason}")


class Unreadable(EngineError):
    """The transaction's row is in the log and cannot be read."""

    def __init__(self, key: Key, why: str) -> None:
        super().__init__(key, f"transaction {key.gid} is in the log, and its row is damaged ({why}): restore the log")


class Draining(EngineError):
    """This manager is about to stop: ask again in a moment, with the same ids."""

    def __init__(self, key: Key) -> None:
        super().__init__(key, "this manager is about to stop: ask again in a moment, with the same ids")


class Unsettled(EngineError):
    """Nobody can say yet what is in the log: ask again with the same ids."""

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__(key, f"the log does not answer for transaction {key.gid} ({reason}): ask again by its gid")
