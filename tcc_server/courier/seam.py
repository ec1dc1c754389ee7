"""The Courier seam: carries lists of commands out and brings outcomes back.

A courier may lose, delay, double and reorder. *Sent* is never *done*: whatever is not answered is sent again by the
engine, so a courier never retries, never raises and never makes the engine wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tcc.v1.participant_pb2 import Command, Outcome

OutcomeSink = Callable[[Outcome], None]
"""Takes one outcome; returns at once and never raises."""


class Courier(Protocol):
    """The seam. Implementations: `tcc_server.courier.direct`, and the in-memory one of `tcc.testing`."""

    async def start(self, sink: OutcomeSink) -> None:
        """Begin to work; outcomes go to `sink`."""

    def send(self, commands: Sequence[Command]) -> None:
        """Take commands to be carried. One that still waits here is replaced by a later attempt of the same branch."""

    async def close(self) -> None:
        """Stop. What was not carried yet is dropped, what is under way may still arrive. Idempotent."""
