"""Waiting for what the lock does when nobody waits for it."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis as Client


async def gone(client: Client, key: str) -> None:
    """Returns once the key is gone; its time to live is far longer than this waits."""
    async with asyncio.timeout(5):
        while await client.exists(key):
            pass
