"""`ParticipantServer`: a gRPC server whose actions run through the fence."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.trace import TracerProvider

from tcc.amqp.carrying import InHand
from tcc.amqp.consumer import CommandConsumer, Together
from tcc.amqp.problems import check_url
from tcc.errors import UsageError
from tcc.fence import Fence
from tcc.ids import problem_with_id
from tcc.lock import Lock, NoLock
from tcc.participant._binding import Handler
from tcc.participant._router import Router
from tcc.participant._runtime import ParticipantRuntime
from tcc.participant._service import Health, ParticipantService, methods_of
from tcc.participant._together import CommandsTogether
from tcc.tracing import Tracing
from tcc.v1 import participant_pb2, participant_pb2_grpc

_log = logging.getLogger("tcc.participant")

DRAIN: Final = 7.0
"""Seconds that calls in progress get when the server is told to end."""
_ROLLBACK: Final = 1.0
"""Seconds that stopped handlers get to roll back, and that the fence and the lock get to close."""

_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls silently
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.max_metadata_size", 16 * 1024),
    # Managers ping each 20 s while a stream is open, even an idle one; by default gRPC ends the connection of those
    # that ping oftener than each 5 minutes.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class ParticipantServer(grpc.aio.Server):
    """A gRPC server for services with actions. Register servicers with their generated functions.

        server = tcc.ParticipantServer("localhost:50061", fence=fence)
        add_AccountsServicer_to_server(Accounts(), server)
        asyncio.run(server.run())

    Args:
        address: to listen on, `host:port`; port 0 takes a free one, see `port`.
        fence: makes effects happen once; in the service's own database.
        name: the participant's name, as the manager's configuration has it. Default: the full name of each service.
        lock: keeps double deliveries apart.
        credentials: for TLS; None listens in the clear.
        handler_timeout: seconds after which a handler of Confirm or Cancel is stopped and rolled back.
        try_timeout: the same for Try, where it is less. An instance that is killed leaves the locks of its Tries behind
            for these and 5 s more: keep both well below your transactions' timeouts.
        interceptors: for calls by gRPC; what comes as a command does not pass them. With any, managers call method by
            method and not in lists, which costs more.
        options: gRPC channel arguments, over the server's own.
        maximum_concurrent_rpcs: calls over these, and items of a stream, are answered RESOURCE_EXHAUSTED, which a
            manager repeats; None: no limit.
        tracer_provider: OpenTelemetry's; None: the process's own. See `tcc.tracing.export`.

        rabbitmq: `amqp://USER:PASSWORD@HOST:PORT/VHOST` to consume commands from beside serving gRPC; None: commands
            come by gRPC alone. The server starts and serves whether RabbitMQ is there or not.

    Raises:
        UsageError: the name is no id, or the RabbitMQ url is none. Registering raises it for a wrong option in the
            proto, a handler that is not `async def` or streams, and a service that is added twice.
    """

    def __init__(
        self,
        address: str,
        *,
        fence: Fence,
        name: str | None = None,
        lock: Lock | None = None,
        credentials: grpc.ServerCredentials | None = None,
        handler_timeout: float = 30.0,
        try_timeout: float = 10.0,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        options: Sequence[tuple[str, int | str]] = (),
        maximum_concurrent_rpcs: int | None = 1000,
        tracer_provider: TracerProvider | None = None,
        rabbitmq: str | None = None,
    ) -> None:
        problem = None if name is None else problem_with_id("participant name", name)
        if problem is not None:
            raise UsageError(problem)
        if rabbitmq is not None:
            try:
                check_url(rabbitmq)
            except ValueError as error:
                raise UsageError(f"rabbitmq {error}") from None
        self._rabbitmq = rabbitmq
        self._handler_timeout = handler_timeout
        self._consumers: list[CommandConsumer] = []
        self._address = address
        self._name = name
        self._fence = fence
        self._lock = lock or NoLock()
        self._credentials = credentials
        self._interceptors = tuple(interceptors)
        self._options = tuple({**dict(_OPTIONS), **dict(options)}.items())  # gRPC takes the first of two of one name
        self._maximum_concurrent_rpcs = maximum_concurrent_rpcs
        self._runtime = ParticipantRuntime(fence, self._lock, handler_timeout=handler_timeout, try_timeout=try_timeout)
        self._tracing = Tracing(tracer_provider)
        self._router = Router(self._runtime, self._tracing)
        self._health: Health | None = None
        self._server: grpc.aio.Server | None = None
        self._port: int | None = None
        self._stopped = asyncio.Event()
        self._service = ParticipantService(
            self.describe,
            self._runtime,
            self._tracing,
            streams=not self._interceptors,
            at_once=maximum_concurrent_rpcs,
        )
        participant_pb2_grpc.add_ParticipantServicer_to_server(self._service, self)

    @property
    def runtime(self) -> ParticipantRuntime:
        """What runs the phases; couriers and in-process managers call it directly."""
        return self._runtime

    @property
    def port(self) -> int:
        """The port that the server listens on.

        Raises:
            UsageError: it does not yet.
        """
        if self._port is None:
            raise UsageError("the server has no port before start()")
        return self._port

    def describe(self) -> participant_pb2.DescribeResponse:
        """The server's participants and their actions, as `tcc.v1.Participant.Describe` tells them."""
        participants: dict[str, participant_pb2.DescribeResponse.Participant] = {}
        for action in self._runtime.actions:
            name = self._name or action.service
            participant = participants.setdefault(name, participant_pb2.DescribeResponse.Participant(name=name))
            participant.actions.append(methods_of(action))
        return participant_pb2.DescribeResponse(participants=participants.values())

    # What grpc.aio.Server has.

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Called by generated code; see the class for what it raises."""
        self._before_start()
        self._router.add_generic(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Called by generated code; see the class for what it raises."""
        self._before_start()
        self._router.add_registered(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        """Listens on one more address; needs a running event loop. Gives the port."""
        return self._bind(address, None)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Listens on one more address with TLS; needs a running event loop. Gives the port."""
        return self._bind(address, server_credentials)

    async def start(self) -> None:
        """Listens, and takes calls.

        Raises:
            UsageError: the address cannot be listened on, no service with an action is registered, or the server has
                been started before.
        """
        self._before_start()
        if not self._runtime.actions:
            raise UsageError(
                "no registered service has an action: put option (tcc.v1.action) on its Try methods, and call the "
                "generated add_..._to_server with this server"
            )
        health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(health, self)
        for service in self._router.services:
            await health.set(service, health_pb2.HealthCheckResponse.SERVING)
        port = self._bind(self._address, self._credentials)
        await self._inner().start()
        self._health, self._port = health, port
        if self._rabbitmq is not None:
            for participant in self.describe().participants:
                consumer = CommandConsumer(
                    self._rabbitmq,
                    participant.name,
                    self._command,
                    self._tracing,
                    handler_timeout=self._handler_timeout,
                    join=self._join_commands,
                )
                consumer.start()
                self._consumers.append(consumer)

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, and waits for those in progress.

        Args:
            grace: seconds that they get; then they are stopped and rolled back. None: none.
        """
        if self._server is None or self._stopped.is_set():
            return
        loop = asyncio.get_running_loop()
        graceful_until = loop.time() + (grace or 0.0)
        if self._health is not None:
            await self._health.shut_down()
        self._service.end_streams()
        await asyncio.gather(self._server.stop(grace), *(one.drain(grace or 0.0) for one in self._consumers))
        self._runtime.stop_taking()
        with suppress(TimeoutError):
            # gRPC does not wait for the calls that it stopped, and knows nothing of those that came another way.
            async with asyncio.timeout_at(max(graceful_until, loop.time() + _ROLLBACK)):
                await self._runtime.idle()
        await asyncio.gather(*(one.close() for one in self._consumers))
        self._stopped.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Waits until the server is stopped; gives whether `timeout` seconds ran out before."""
        try:
            async with asyncio.timeout(timeout):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False

    async def run(self, *, started: Callable[[], object] | None = None) -> None:
        """Serves until SIGTERM or SIGINT, then drains, and closes the fence and the lock; takes at most 10 s for that.

        Args:
            started: called once the server takes calls.
        """
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        heard = [number for number in (signal.SIGTERM, signal.SIGINT) if _listen(loop, number, told)]
        try:
            await self.start()
            if started is not None:
                started()
            await told.wait()
            _log.info("told to end: draining for up to %g s", DRAIN)
        finally:
            await self.stop(DRAIN)
            await self._close()
            for number in heard:  # not before: a second signal must not cut the end short, which is bounded anyway
                loop.remove_signal_handler(number)

    def _command(self, command: participant_pb2.Command, timeout: float) -> Awaitable[participant_pb2.Outcome]:
        return self._runtime.command(command, timeout=timeout, peer="rabbitmq")

    def _join_commands(
        self, tell: Callable[[Sequence[tuple[InHand, participant_pb2.Outcome]]], None]
    ) -> Together | None:
        shared = self._runtime.shares
        return None if shared is None else CommandsTogether(self._runtime, shared, tell, peer="rabbitmq")

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_ROLLBACK):
                await self._fence.close()
                await self._lock.close()
        except TimeoutError:
            _log.warning("the fence or the lock did not close within %g s", _ROLLBACK)

    def _before_start(self) -> None:
        if self._port is not None:
            raise UsageError("the server has been started already")

    def _inner(self) -> grpc.aio.Server:
        # Made late: gRPC ties a server to the running event loop, and this object is usually made before there is one.
        if self._server is None:
            self._server = grpc.aio.server(
                handlers=(self._router,),
                interceptors=self._interceptors,
                options=self._options,
                maximum_concurrent_rpcs=self._maximum_concurrent_rpcs,
            )
        return self._server

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        server = self._inner()
        try:
            if credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise UsageError(
                f"cannot listen on {address}: the port is in use, or the address is not this machine's ({error})"
            ) from error


def _listen(loop: asyncio.AbstractEventLoop, number: signal.Signals, told: asyncio.Event) -> bool:
    try:
        loop.add_signal_handler(number, told.set)
    except (NotImplementedError, RuntimeError, ValueError):
        return False  # not the main thread, or a system without them: the caller cancels run() instead
    return True
