"""The seams of time, ids and chance: the only places where the manager reads a clock or throws dice."""

from __future__ import annotations

import random
import secrets
import time
from typing import Protocol

from tcc_server.core.model import Moment

_made = tuple.__new__  # a named tuple's own is a call in Python, half of what a look at the clocks costs
_monotonic, _wall = time.monotonic, time.time


class Clock(Protocol):
    """Reads time. Waiting is the event loop's business; see `tcc_server.engine.timers`."""

    def now(self) -> Moment:
        """This moment on both clocks."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Moment:
        """This moment on both clocks."""
        return _made(Moment, (_monotonic(), _wall()))


class Ids(Protocol):
    """Makes ids."""

    def write_id(self) -> bytes:
        """16 bytes that no other append ever had."""

    def replica_id(self) -> str:
        """A fresh id for a replica's life."""


class RandomIds:
    """Ids from the system's randomness."""

    def write_id(self) -> bytes:
        """16 bytes that no other append ever had."""
        return random.randbytes(16)  # noqa: S311  uniqueness is wanted, not secrecy; urandom costs a system call each

    def replica_id(self) -> str:
        """A fresh id for a replica's life."""
        return secrets.token_hex(8)


class Rng(Protocol):
    """Throws dice, for jitter."""

    def uniform(self) -> float:
        """A number in [0, 1)."""


class SystemRng:
    """Python's generator, seeded by the system."""

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return random.random()  # noqa: S311  jitter is no secret
