"""How many calls are in progress, for an end that waits for them."""

from __future__ import annotations

import asyncio


class UnderWay:
    """How many calls are in progress."""

    def __init__(self) -> None:
        self._count = 0
        self._over: list[asyncio.Future[None]] = []

    def begun(self) -> None:
        """One more."""
        self._count += 1

    def ended(self) -> None:
        """One less."""
        self._count -= 1
        if not self._count and self._over:
            over, self._over = self._over, []
            for waiter in over:
                if not waiter.done():
                    waiter.set_result(None)

    async def over(self) -> None:
        """Returns once there is none."""
        if self._count:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._over.append(waiter)
            await waiter
