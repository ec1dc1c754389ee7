"""The composition root: makes the manager out of its configuration, runs it, and takes it down again.

Order of starting: log, engine (which adopts what a dead manager left), gRPC, health. Order of stopping, the reverse:
health first, then no new work, then what is in progress ends, then gRPC, engine, log.

A manager whose lease in a shared log has lapsed drops everything but its gRPC server, and begins anew under a new id.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tcc.tracing import Tracing
from tcc.tracing.export import Exporter
from tcc.v1 import manager_pb2, participant_pb2, participant_pb2_grpc
from tcc_server.api.requests import Limits, Requests
from tcc_server.api.service import ManagerService
from tcc_server.caller.channels import Channels
from tcc_server.caller.grpc import GrpcCaller
from tcc_server.clock import RandomIds, SystemClock, SystemRng
from tcc_server.config import Config, hide_secrets
from tcc_server.core.policy import Policy
from tcc_server.courier.direct import DirectCourier
from tcc_server.courier.rabbitmq import RabbitCourier
from tcc_server.courier.seam import Courier
from tcc_server.engine.engine import Bounds, Engine
from tcc_server.engine.worker import Seams
from tcc_server.log.memory import MemoryLog
from tcc_server.log.postgres import PostgresLog
from tcc_server.log.postgres_database import is_postgres
from tcc_server.log.seam import Log, LogUnavailable
from tcc_server.log.sqlite import SqliteLog

_log = structlog.get_logger(__name__)

SERVICE = manager_pb2.DESCRIPTOR.services_by_name["TransactionManager"].full_name
_NEW_LEASE_PAUSE = 1.0
_MESSAGE_LIMIT = 8 * 1024 * 1024
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # two managers on one port would share it in silence
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    ("grpc.max_send_message_length", _MESSAGE_LIMIT),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 10_000),
    # Clients ping each 10 s; by default gRPC ends the connection of those that ping oftener than each 5 minutes.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class StartError(Exception):
    """The manager cannot start; the message says why and what to do."""


class ManagerApp:
    """A manager with everything it stands on.

    Args:
        config: checked configuration.
        wrap: puts something around the seams before the engine gets them: tests let them fail with it.
    """

    def __init__(self, config: Config, *, wrap: Callable[[Seams], Seams] = lambda seams: seams) -> None:
        self._config = config
        self._wrap = wrap
        self._endpoints: Mapping[str, str] = {name: entry.endpoint for name, entry in config.participants.items()}
        self._server: grpc.aio.Server | None = None
        self._health: health.aio.HealthServicer | None = None
        self._service: ManagerService | None = None
        self._engine: Engine | None = None
        self._channels: Channels | None = None
        self._row_log: Log | None = None
        self._lease_watch: asyncio.Task[None] | None = None
        self._exporter: Exporter | None = None
        self._tracing = Tracing()
        self.port = 0

    async def start(self) -> None:
        """Open the log, go on with what is unfinished, and serve.

        Raises:
            StartError: what is in the way, and what to do about it.
        """
        config = self._config
        if config.tracing.otlp:
            self._exporter = Exporter(config.tracing.service, config.tracing.otlp, sample=config.tracing.sample)
            self._tracing = Tracing(self._exporter.provider)
        try:
            replica = await self._start_replica()
            await self._start_server()
        except LogUnavailable as error:
            await self.stop()
            raise StartError(str(error)) from error
        except BaseException:
            await self.stop()
            raise
        self._lease_watch = asyncio.create_task(self._watch_lease(), name="lease-watch")
        _log.info(
            "serving",
            listen=self.listen,
            log=hide_secrets(config.log),
            participants=dict(self._endpoints),
            replica=replica,
        )

    @property
    def listen(self) -> str:
        """Where it serves, with the port that was really taken."""
        return f"{self._config.listen.rpartition(':')[0]}:{self.port}"

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain and stop."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        try:
            await stopping.wait()
            await self.stop()  # with the handlers still there: a second signal must not cut the drain short
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def stop(self) -> None:
        """Drain: begin nothing new, let calls in progress end, then let go of everything. Idempotent."""
        if self._lease_watch is not None:
            self._lease_watch.cancel()
            await asyncio.wait({self._lease_watch})
            self._lease_watch = None
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        if self._engine is not None:
            self._engine.drain()
        if self._server is not None:
            if self._service is not None:
                try:
                    async with asyncio.timeout(self._config.drain_timeout):
                        await self._service.drained()
                except TimeoutError:
                    _log.warning("drain_timeout", hint="calls still in progress are ended; clients ask again by gid")
                self._service.end_streams()
            await self._server.stop(grace=0.5)
            self._server = None
        if self._engine is not None:
            await self._engine.close()
        await self._let_go()
        if self._exporter is not None:
            await self._exporter.close()
            self._exporter = None

    async def _start_replica(self) -> str:
        """A log, and an engine on it, under a new id, which is given back. Raises LogUnavailable."""
        replica = RandomIds().replica_id()
        row_log = _log_of(self._config, replica)
        await row_log.open()
        self._row_log = row_log
        await self._start_engine(row_log, replica)
        return replica

    async def _watch_lease(self) -> None:
        while self._row_log is not None:
            await self._row_log.lapsed()
            await self._begin_anew()

    async def _begin_anew(self) -> None:
        """The lease has lapsed: others work on what was worked on here. Calls are told to come again meanwhile."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        replica = ""
        while not replica:
            if self._engine is not None:
                await self._engine.abandon()
            await self._let_go()
            try:
                replica = await self._start_replica()
            except LogUnavailable as error:
                _log.error("log_unavailable", error=str(error))
                await asyncio.sleep(_NEW_LEASE_PAUSE)
            except Exception:  # the rim: nobody waits for this, and giving up would leave a manager that does nothing
                _log.exception("cannot_begin_anew")
                await asyncio.sleep(_NEW_LEASE_PAUSE)
        if self._service is not None and self._engine is not None:
            self._service.use(self._engine)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving_again", replica=replica)

    async def _let_go(self) -> None:
        """Close what an engine stood on."""
        self._engine = None
        if self._channels is not None:
            await self._channels.close()
            self._channels = None
        if self._row_log is not None:
            await self._row_log.close()
            self._row_log = None

    async def _start_engine(self, row_log: Log, replica: str) -> None:
        self._channels = Channels(self._endpoints)
        tracing = self._tracing
        policy = Policy(**self._config.retry.model_dump())
        seams = Seams(
            log=row_log,
            caller=GrpcCaller(self._channels, tracing),
            courier=_courier_of(self._config, self._channels, policy, replica, tracing),
            clock=SystemClock(),
            ids=RandomIds(),
            rng=SystemRng(),
            tracing=tracing,
            bridged=frozenset(name for name, entry in self._config.participants.items() if entry.bridged),
        )
        limits = self._config.limits
        engine = Engine(
            self._wrap(seams),
            replica=replica,
            policy=policy,
            bounds=Bounds(limits.branches, limits.transaction_bytes, limits.open_transactions),
        )
        self._engine = engine
        await engine.start()
        self._channels.watch(engine.seen)

    async def _start_server(self) -> None:
        assert self._engine is not None  # noqa: S101  started before
        server = grpc.aio.server(options=_OPTIONS)
        self._service = ManagerService(
            self._engine,
            Requests(self._endpoints.keys(), Limits(**self._config.limits.model_dump(exclude={"open_transactions"}))),
            self._tracing,
        )
        self._service.add_to(server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._config.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        try:
            self.port = server.add_insecure_port(self._config.listen)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {self._config.listen}: is another process using the port? "
                "Stop it, or choose another address with `listen`"
            ) from error
        await server.start()
        self._server = server
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        if self._health is not None:
            for name in ("", SERVICE):
                await self._health.set(name, status)


def _courier_of(config: Config, channels: Channels, policy: Policy, replica: str, tracing: Tracing) -> Courier:
    if config.courier == "direct":
        return DirectCourier(channels, tracing)
    return RabbitCourier(
        config.rabbitmq.url,
        tracing,
        replica=replica,
        participants=channels.names(),
        answer_wait=policy.answer_wait,
        publish_timeout=config.rabbitmq.publish_timeout,
        heartbeat=config.rabbitmq.heartbeat,
    )


def _log_of(config: Config, replica: str) -> Log:
    if config.log == "memory:":
        return MemoryLog(replica=replica)
    if is_postgres(config.log):
        return PostgresLog(config.log, replica=replica, lease_ttl=config.lease)
    return SqliteLog(config.log, replica=replica)


async def describe(endpoints: Sequence[str], timeout: float = 10.0) -> dict[str, str]:
    """Ask servers which participants they are.

    Args:
        endpoints: `host:port` of servers that are built with the SDK.
        timeout: seconds to wait for each of them to come up.

    Returns:
        Participant name to endpoint.

    Raises:
        StartError: one does not answer, is not built with the SDK, or two say the same name.
    """
    found: dict[str, str] = {}
    for endpoint, answer in zip(
        endpoints, await asyncio.gather(*(_describe(endpoint, timeout) for endpoint in endpoints)), strict=True
    ):
        for participant in answer.participants:
            other = found.setdefault(participant.name, endpoint)
            if other != endpoint:
                raise StartError(
                    f"{other} and {endpoint} both call themselves {participant.name}: give each database its own name "
                    "with ParticipantServer(..., name=...); instances that share a database belong behind one endpoint"
                )
    return found


async def _describe(endpoint: str, timeout: float) -> participant_pb2.DescribeResponse:
    async with grpc.aio.insecure_channel(endpoint, options=(("grpc.enable_http_proxy", 0),)) as channel:
        stub = participant_pb2_grpc.ParticipantStub(channel)
        try:
            return await stub.Describe(participant_pb2.DescribeRequest(), timeout=timeout, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise StartError(
                    f"{endpoint} is no participant of the SDK: name it in a configuration file and use `tcc server`"
                ) from error
            raise StartError(
                f"no participant answers at {endpoint} ({error.code().name}): start it first, or check the address"
            ) from error
