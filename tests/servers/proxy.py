"""A TCP proxy in front of a server, that loses replies, falls silent, or cuts its connections when a test says so."""

from __future__ import annotations

import asyncio
from types import TracebackType

_CHUNK = 65536


class Proxy:
    """Passes bytes between its own port and a server's.

        async with Proxy(redis.port) as proxy:
            proxy.lose_reply_to(b"EVALSHA")

    Args:
        target: the server's port on loopback.

    Attributes:
        port: where it listens; known once it is entered.
        lost: how many replies it has lost.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._pattern: bytes | None = None
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0
        self.lost = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._links, return_exceptions=True)

    def lose_reply_to(self, pattern: bytes) -> None:
        """The next request that holds these bytes reaches the server; its reply is lost, and its connection cut."""
        self._pattern = pattern

    def freeze(self) -> None:
        """From now on nothing passes, in either direction, on any connection, and nobody is told."""
        self._flowing.clear()

    def forget(self) -> None:
        """After `freeze`: what is frozen stays so for ever, as half-open connections do; later ones pass."""
        self._flowing = asyncio.Event()
        self._flowing.set()

    def thaw(self) -> None:
        """What waits passes, and all that follows."""
        self._flowing.set()

    def cut(self) -> None:
        """Cut all connections."""
        for link in self._links:
            link.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        try:
            await self._link(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # cut, by us or by either end
        finally:
            self._links.discard(link)
            writer.close()

    async def _link(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        silent, flowing = asyncio.Event(), self._flowing
        try:
            there = asyncio.create_task(self._requests(client, to_server, silent, flowing))
            back = asyncio.create_task(self._replies(server, to_client, silent, flowing))
            try:
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        finally:
            to_server.close()

    async def _requests(
        self,
        client: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        silent: asyncio.Event,
        flowing: asyncio.Event,
    ) -> None:
        while data := await client.read(_CHUNK):
            if self._pattern is not None and self._pattern in data:
                self._pattern = None
                silent.set()
            await flowing.wait()
            to_server.write(data)
            await to_server.drain()

    async def _replies(
        self,
        server: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        silent: asyncio.Event,
        flowing: asyncio.Event,
    ) -> None:
        while data := await server.read(_CHUNK):
            if silent.is_set():
                self.lost += 1
                return
            await flowing.wait()
            to_client.write(data)
            await to_client.drain()
