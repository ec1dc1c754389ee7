"""`tcc bridge`: a service in plain grpcio, without the SDK, that takes part through RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.empty_pb2 import Empty

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from services.accounts.v1.accounts_pb2_grpc import (
    AccountsServicer,
    AccountsStub,
    add_AccountsServicer_to_server,
)
from tcc import wire
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command
from tcc_server.app import ManagerApp
from tcc_server.bridge.bridge import Bridge
from tcc_server.cli import main
from tcc_server.config import Config, Participant, RabbitMQ as RabbitMQSettings
from tests.links.participant import HASH, METHODS, REQUEST
from tests.rabbitmq.ends import DONE, RETRY, manager, until
from tests.servers.rabbitmq import RabbitMQ

ROOT = Path(__file__).parents[2]


class Plain(AccountsServicer):
    """A service as somebody without the SDK would write it; remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str | bytes], pb.DebitRequest]] = []
        self.failure: tuple[grpc.StatusCode, str, bytes] | None = None
        self.release = asyncio.Event()
        self.release.set()

    async def TryDebit(self, request: pb.DebitRequest, context: Any) -> pb.DebitReply:
        self._note("try", request, context)
        return pb.DebitReply(reservation_id="plain-1")

    async def ConfirmDebit(self, request: pb.DebitRequest, context: Any) -> Empty:
        self._note("confirm", request, context)
        await self.release.wait()
        if self.failure is not None:
            code, text, details = self.failure
            await context.abort(code, text, ((wire.STATUS_DETAILS, details),) if details else ())
        return Empty()

    async def CancelDebit(self, request: pb.DebitRequest, context: Any) -> Empty:
        self._note("cancel", request, context)
        return Empty()

    async def TryCredit(self, request: pb.CreditRequest, context: Any) -> pb.CreditReply:
        raise NotImplementedError

    async def ConfirmCredit(self, request: pb.CreditRequest, context: Any) -> Empty:
        raise NotImplementedError

    async def CancelCredit(self, request: pb.CreditRequest, context: Any) -> Empty:
        raise NotImplementedError

    async def OpenAccount(self, request: pb.OpenAccountRequest, context: Any) -> pb.Account:
        raise NotImplementedError

    async def GetAccount(self, request: pb.GetAccountRequest, context: Any) -> pb.Account:
        raise NotImplementedError

    async def GetTotals(self, request: pb.GetTotalsRequest, context: Any) -> pb.Totals:
        raise NotImplementedError

    def _note(self, phase: str, request: pb.DebitRequest, context: Any) -> None:
        self.calls.append((phase, dict(context.invocation_metadata()), request))


@asynccontextmanager
async def served(service: Plain) -> AsyncIterator[str]:
    """The service on a port of its own; gives its address."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_AccountsServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def bridged(url: str, name: str, endpoint: str) -> AsyncIterator[Bridge]:
    bridge = Bridge(url, {name: endpoint})
    await bridge.start()
    try:
        yield bridge
    finally:
        await bridge.stop()


def confirm(name: str, gid: str = "g") -> Command:
    return Command(
        namespace="default",
        gid=gid,
        branch="0",
        phase=transaction_pb2.PHASE_CONFIRM,
        methods=transaction_pb2.Methods(
            try_method=METHODS.try_method, confirm_method=METHODS.confirm_method, cancel_method=METHODS.cancel_method
        ),
        request=REQUEST,
        request_hash=HASH,
        attempt=3,
        participant=name,
        try_reply=b"as it was",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


async def test_a_command_is_a_call_of_the_services_own_method(broker: RabbitMQ, name: str) -> None:
    plain = Plain()
    async with manager(broker.url, name) as end, served(plain) as endpoint, bridged(broker.url, name, endpoint):
        end.courier.send([confirm(name)])
        outcome = await end.outcome()
    assert (outcome.kind, outcome.gid, outcome.branch, outcome.attempt) == (DONE, "g", "0", 3)
    [(phase, metadata, request)] = plain.calls
    assert (phase, request) == ("confirm", pb.DebitRequest(account="a", amount=1))
    assert (metadata["tcc-namespace"], metadata["tcc-gid"], metadata["tcc-branch"]) == ("default", "g", "0")
    assert (metadata["tcc-phase"], metadata["tcc-attempt"]) == ("confirm", "3")
    assert metadata["tcc-request-hash"] == HASH.hex()
    assert metadata["tcc-try-reply-bin"] == b"as it was"
    assert str(metadata["traceparent"]).split("-")[1] == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("code", "details", "kind", "reason"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, b"", RETRY, ""),
        (
            grpc.StatusCode.FAILED_PRECONDITION,
            wire.error_details(grpc.StatusCode.FAILED_PRECONDITION, "no", wire.CONTRADICTED, reason="EXPIRED"),
            transaction_pb2.OUTCOME_KIND_CONTRADICTED,
            "EXPIRED",
        ),
        (
            grpc.StatusCode.FAILED_PRECONDITION,
            wire.error_details(grpc.StatusCode.FAILED_PRECONDITION, "no", wire.NO_TRY),
            transaction_pb2.OUTCOME_KIND_NO_TRY,
            "",
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            wire.busy_details(grpc.StatusCode.UNAVAILABLE, "no", 2.0),
            transaction_pb2.OUTCOME_KIND_BUSY,
            "",
        ),
    ],
    ids=["any status", "contradicted", "no try", "busy"],
)
async def test_how_the_call_ends_is_the_outcome(
    broker: RabbitMQ, name: str, code: grpc.StatusCode, details: bytes, kind: int, reason: str
) -> None:
    plain = Plain()
    plain.failure = (code, "no", details)
    async with manager(broker.url, name) as end, served(plain) as endpoint, bridged(broker.url, name, endpoint):
        end.courier.send([confirm(name)])
        outcome = await end.outcome()
    assert (outcome.kind, outcome.code, outcome.message, outcome.reason) == (kind, code.value[0], "no", reason)


async def test_a_service_that_is_down_is_a_retry(broker: RabbitMQ, name: str) -> None:
    async with manager(broker.url, name) as end, bridged(broker.url, name, "127.0.0.1:1"):
        end.courier.send([confirm(name)])
        outcome = await end.outcome()
    assert (outcome.kind, outcome.code) == (RETRY, 14)


@asynccontextmanager
async def whole(tmp_path: Path, broker: RabbitMQ, name: str, endpoint: str) -> AsyncIterator[ManagerApp]:
    """A manager whose one participant is bridged."""
    app = ManagerApp(
        Config(
            listen="127.0.0.1:0",
            log=f"sqlite:///{tmp_path / 'tcc.db'}",
            courier="rabbitmq",
            rabbitmq=RabbitMQSettings(url=broker.url),
            participants={name: Participant(endpoint=endpoint, bridged=True)},
        )
    )
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def test_the_whole_way_by_the_command(tmp_path: Path, broker: RabbitMQ, name: str) -> None:
    plain = Plain()
    async with served(plain) as endpoint, whole(tmp_path, broker, name, endpoint) as app:
        config = tmp_path / "tcc.toml"
        config.write_text(
            f'courier = "rabbitmq"\n[rabbitmq]\nurl = "{broker.url}"\n'
            f'[participants."{name}"]\nendpoint = "{endpoint}"\nbridged = true\n',
            "utf-8",
        )
        command = (sys.executable, "-m", "tcc", "bridge", "--config", str(config), "--json")
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
        assert process.stdout is not None
        try:
            said = json.loads(await process.stdout.readline())
            assert said["participants"] == {name: endpoint}
            bank = AccountsStub(tcc.plan.participant(name))
            async with tcc.Manager(app.listen) as client:
                debit = bank.TryDebit(pb.DebitRequest(account="a", amount=1))
                done = await client.execute(debit, gid="t-1", timeout=20, wait=tcc.COMPLETED)
            assert done.replies[0].reservation_id == "plain-1"
            # A call in hand is ended before the bridge goes.
            plain.release.clear()
            async with tcc.Manager(app.listen) as client:
                await client.execute(bank.TryDebit(pb.DebitRequest(account="a", amount=2)), gid="t-2", timeout=20)
                await until(lambda: len(plain.calls) == 4)
                process.send_signal(signal.SIGTERM)
                plain.release.set()
                async for seen in client.watch("t-2"):
                    last = seen
            assert last.state is tcc.State.CONFIRMED
        except BaseException:
            process.kill()
            raise
        finally:
            _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
    assert [phase for phase, _, _ in plain.calls] == ["try", "confirm", "try", "confirm"]
    replied = plain.calls[1][1]["tcc-try-reply-bin"]
    assert isinstance(replied, bytes)
    assert pb.DebitReply.FromString(replied).reservation_id == "plain-1"


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("", (), "no participant of the configuration has bridged = true"),
        ("bridged = true\n", ("--participant", "other"), "no such participant with bridged = true; it has bank"),
    ],
)
def test_a_bridge_for_nobody_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, arguments: tuple[str, ...], words: str
) -> None:
    config = tmp_path / "tcc.toml"
    config.write_text(f'[participants.bank]\nendpoint = "h:1"\n{text}', "utf-8")
    assert main(["bridge", "--config", str(config), *arguments]) == 2
    assert words in capsys.readouterr().err
