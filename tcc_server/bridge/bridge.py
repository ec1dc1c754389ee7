"""The bridge: commands from RabbitMQ become calls of a service's own Confirm and Cancel, and their ends outcomes.

The service needs nothing of the SDK, and keeps its promises by itself: idempotent by (namespace, gid, branch, phase),
an empty Cancel remembered, a later Try refused (CONTRACT.md, "Services without the SDK"). As many bridges as one likes
may run beside each other.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping

import structlog

from tcc.amqp.consumer import CommandConsumer
from tcc.amqp.problems import where
from tcc.tracing import Tracing
from tcc_server.caller.channels import Channels
from tcc_server.caller.commands import CommandCaller

_log = structlog.get_logger(__name__)


class Bridge:
    """Carries commands to services.

    Args:
        url: RabbitMQ's.
        endpoints: participant name to `host:port` of its gRPC server.
        call_timeout: seconds for one call.
        heartbeat: of the connections, in seconds.
    """

    def __init__(
        self,
        url: str,
        endpoints: Mapping[str, str],
        tracing: Tracing | None = None,
        *,
        call_timeout: float = 30.0,
        publish_timeout: float = 5.0,
        heartbeat: int = 10,
    ) -> None:
        self._url = url
        self._endpoints = dict(endpoints)
        self._tracing = tracing or Tracing()
        self._call_timeout = call_timeout
        self._publish_timeout = publish_timeout
        self._heartbeat = heartbeat
        self._channels: Channels | None = None
        self._consumers: list[CommandConsumer] = []

    async def start(self) -> None:
        """Begin to consume; returns at once, whether RabbitMQ and the services are there or not."""
        self._channels = Channels(self._endpoints)
        calls = CommandCaller(self._channels, self._tracing, streams=False)
        for participant in self._endpoints:
            consumer = CommandConsumer(
                self._url,
                participant,
                calls.call,
                self._tracing,
                handler_timeout=self._call_timeout,
                publish_timeout=self._publish_timeout,
                heartbeat=self._heartbeat,
            )
            consumer.start()
            self._consumers.append(consumer)
        _log.info("bridging", rabbitmq=where(self._url), participants=self._endpoints)

    async def stop(self, grace: float = 0.0) -> None:
        """Take no more commands, give those in hand `grace` seconds, and let go of everything. Idempotent."""
        consumers, self._consumers = self._consumers, []
        await asyncio.gather(*(one.drain(grace) for one in consumers))
        await asyncio.gather(*(one.close() for one in consumers))
        channels, self._channels = self._channels, None
        if channels is not None:
            await channels.close()

    async def run(self, grace: float, started: Callable[[], object]) -> None:
        """Serve until SIGTERM or SIGINT, then drain and stop.

        Args:
            grace: seconds for the commands in hand.
            started: called once the signals are heard and consuming has begun.
        """
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        heard = (signal.SIGTERM, signal.SIGINT)
        for number in heard:
            loop.add_signal_handler(number, stopping.set)
        try:
            await self.start()
            started()
            await stopping.wait()
        finally:
            await self.stop(grace)
            for number in heard:
                loop.remove_signal_handler(number)
