"""Whether a repeated request is the same: an id with other content is an error, never a silent success."""

from __future__ import annotations

from tcc_server.core.model import Ask, Transaction


def plan_difference(tx: Transaction, name: str, asks: tuple[Ask, ...] | None) -> str | None:
    """In what an Execute (a Begin, where `asks` is None) differs from the transaction of its gid; None: in nothing."""
    if tx.interactive != (asks is None):
        kinds = ("a plan", "an interactive transaction")
        return f"it is {kinds[tx.interactive]}, this call asks for {kinds[asks is None]}"
    if tx.name != name:
        return f"its name is {tx.name!r}, this call says {name!r}"
    if asks is None:
        return None
    if len(tx.branches) != len(asks):
        return f"it has {len(tx.branches)} branches, this call has {len(asks)}"
    for position, (branch, ask) in enumerate(zip(tx.branches, asks, strict=True)):
        difference = ask_difference(branch.ask, ask)
        if difference is not None:
            return f"branch {position}: {difference}"
    return None


def ask_difference(stored: Ask, asked: Ask) -> str | None:
    """In what a repeated branch differs from the stored one; None: in nothing that counts."""
    if stored.step != asked.step:
        return f"its step is {stored.step!r}, this call says {asked.step!r}"
    if stored.participant != asked.participant:
        return f"its participant is {stored.participant!r}, this call says {asked.participant!r}"
    if stored.methods != asked.methods:
        return f"its Try is {stored.methods.try_method}, this call says {asked.methods.try_method}" + (
            "" if stored.methods.try_method != asked.methods.try_method else " with other Confirm or Cancel methods"
        )
    if stored.request_hash != asked.request_hash or stored.request != asked.request:
        return f"step {stored.step!r} has another request"
    return None
