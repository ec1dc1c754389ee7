"""One gRPC channel a participant, for Tries and for the direct courier, and word of when it becomes ready again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import grpc
import grpc.aio

from tcc_server.caller.streams import Streams

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
    ("grpc.max_send_message_length", 8 * 1024 * 1024),
    # A participant that comes back is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A peer that fell silent without a word is noticed, and its calls end as unknown. gRPC waits a minute for the
    # answer to a ping, whatever the keepalive's own timeout is.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    # After two pings without data only one a minute: servers without the SDK end a connection for the fourth ping that
    # they have sent nothing before, unless five minutes lie between.
    ("grpc.http2.max_pings_without_data", 2),
)

RawMethod = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


class Channels:
    """The channels to all configured participants.

    Args:
        endpoints: participant name to `host:port`.
    """

    def __init__(self, endpoints: Mapping[str, str]) -> None:
        self._channels = {
            name: grpc.aio.insecure_channel(endpoint, options=_OPTIONS) for name, endpoint in endpoints.items()
        }
        self._methods: dict[tuple[str, str], RawMethod] = {}
        self._streams: dict[str, Streams] = {}
        self._watchers: list[asyncio.Task[None]] = []

    def names(self) -> frozenset[str]:
        """The participants' names."""
        return frozenset(self._channels)

    def method(self, participant: str, path: str) -> RawMethod:
        """A participant's method, called with raw bytes. Raises KeyError for a participant that is not configured."""
        key = (participant, path)
        found = self._methods.get(key)
        if found is None:
            # Without serializers the bytes pass through as they are; the typed stubs have no word for that.
            found = self._channels[participant].unary_unary(path)
            if len(self._methods) < 4096:  # paths come from clients: do not let them fill the memory
                self._methods[key] = found
        return found

    def streams(self, participant: str) -> Streams:
        """A participant's streams. Raises KeyError for a participant that is not configured."""
        found = self._streams.get(participant)
        if found is None:
            found = self._streams[participant] = Streams(self._channels[participant])
        return found

    def known_streams(self, participant: str) -> Streams | None:
        """Those that were asked for before; None: ask for them."""
        return self._streams.get(participant)

    def watch(self, ready: Callable[[str], None]) -> None:
        """Call `ready(participant)` each time a channel becomes ready again after it was lost."""
        for name, channel in self._channels.items():
            self._watchers.append(asyncio.create_task(_watch(name, channel, ready), name=f"watch {name}"))

    async def close(self) -> None:
        """Let go of all channels; calls in flight end as unknown."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._watchers.clear()
        for streams in self._streams.values():
            await streams.close()
        for channel in self._channels.values():
            await channel.close()


async def _watch(name: str, channel: grpc.aio.Channel, ready: Callable[[str], None]) -> None:
    state = channel.get_state()
    while state is not grpc.ChannelConnectivity.SHUTDOWN:
        await channel.wait_for_state_change(state)
        was, state = state, channel.get_state()
        if state is grpc.ChannelConnectivity.READY and was is not state:
            ready(name)
        elif state is grpc.ChannelConnectivity.IDLE:
            # Lost: connect again without waiting for the next call, so that its return is seen at once.
            channel.get_state(try_to_connect=True)
