"""The seam of the lock, and the lock that is none.

No correctness hangs on a lock: one that is lost, doubled or unreachable costs a wait at the fence's row, nothing more.
So `acquire` never fails: an implementation that cannot reach its server says that it holds, and counts that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class Held(Protocol):
    """The lock is ours until it is released or its time to live runs out."""

    async def release(self) -> None:
        """Gives the lock back; never raises, since the work is done by now."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody else holds the lock.

    Attributes:
        remaining: seconds until it runs out by itself.
    """

    remaining: float


class Lock(Protocol):
    """Keeps double deliveries apart."""

    async def acquire(self, key: str, ttl: float) -> Held | Busy:
        """Takes the lock, with a short wait (50 ms) where somebody else holds it.

        Args:
            key: the branch, as `{namespace/gid}:branch`, braces included.
            ttl: seconds after which the lock runs out by itself.
        """

    async def close(self) -> None:
        """Gives back what the lock holds open. Repeating it does nothing."""


@runtime_checkable
class ListLock(Lock, Protocol):
    """A lock that takes many at once. Of one that cannot, each is taken by itself."""

    async def acquire_all(self, keys: Sequence[str], ttl: float) -> Sequence[Held | Busy]:
        """Takes what is free of some locks, without a wait for those that are not.

        Args:
            keys: as of `acquire`, at most 512; the same one twice is busy the second time.
            ttl: seconds after which each of them runs out by itself.

        Returns:
            One answer a key, in their order. Where the call is cancelled, none of them stays taken.
        """

    def release_all(self, locks: Iterable[Held]) -> None:
        """Gives back what `acquire_all` gave; does not wait for that."""


class NoLock:
    """No lock: double deliveries meet at the fence's row."""

    async def acquire(self, key: str, ttl: float) -> Held | Busy:
        """Always held."""
        return self

    async def release(self) -> None:
        """Nothing to give back."""

    async def close(self) -> None:
        """Nothing is open."""
