"""Ids: what namespace, gid, step, participant and replica names may look like.

The one law (CONTRACT.md, "Ids and limits"): an id matches ``[A-Za-z0-9._~-]{1,64}``.
Both ends check it with this module, so that they cannot disagree.
"""

from __future__ import annotations

import re
import secrets

DEFAULT_NAMESPACE = "default"
"""The namespace of every caller until identities exist."""

_LETTERS = b"abcdefghijklmnopqrstuvwxyz234567" * 8
"""One for each byte: 5 of its bits count."""
_ID = re.compile(r"[A-Za-z0-9._~-]{1,64}")

is_id = _ID.fullmatch
"""What is an id gives something true; `problem_with_id` says what is wrong with what is none."""


def problem_with_id(kind: str, value: str) -> str | None:
    """What is wrong with an id, as a sentence that names it and says what to do; None if nothing is."""
    if _ID.fullmatch(value):
        return None
    if not value:
        return f"{kind} is empty: give 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -"
    if len(value) > 64:
        return f"{kind} has {len(value)} characters, the limit is 64: {value[:64]!r}..."
    return f"{kind} {value!r} has characters other than A-Z a-z 0-9 . _ ~ -"


def new_gid() -> str:
    """A fresh transaction id: 26 of the characters a-z and 2-7, which carry 130 random bits.

    None of them reads as an option on a command line, and a double click selects all of it.
    """
    return secrets.token_bytes(26).translate(_LETTERS).decode()
