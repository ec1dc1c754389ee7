"""The configured participants: whether they answer, are who the configuration says, and can write their fence.

A participant of the SDK is asked to confirm a branch that it never saw. By the fence's table that runs no business code
and writes no row, and the answer NO_TRY proves that the fence's table is there and can be locked and written to; no
other call tells. A participant without the SDK promises no such thing, so it is only asked for its health.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tcc.v1 import participant_pb2, participant_pb2_grpc, transaction_pb2
from tcc_server.caller.channels import Channels
from tcc_server.caller.commands import CommandCaller
from tcc_server.config import Participant
from tcc_server.doctor.finding import Finding, ok, problem, warning

TIMEOUT: Final = 5.0
"""Seconds for one question."""

_OPTIONS = (("grpc.enable_http_proxy", 0),)


async def check_participants(participants: Mapping[str, Participant]) -> list[Finding]:
    """Look at all participants of a configuration, side by side."""
    if not participants:
        return [
            warning(
                "participants",
                "none is configured, so no transaction can have a branch",
                "add [participants.NAME] with endpoint = 'HOST:PORT'",
            )
        ]
    looked = await asyncio.gather(*(_look(name, entry) for name, entry in participants.items()))
    return [finding for findings in looked for finding in findings]


async def _look(name: str, entry: Participant) -> list[Finding]:
    subject = f"participant {name}"
    async with grpc.aio.insecure_channel(entry.endpoint, options=_OPTIONS) as channel:
        try:
            health = await _health(channel)
            described = await _describe(channel)
        except grpc.aio.AioRpcError as error:
            return [_unreachable(subject, entry, error)]
    findings = [_healthy(subject, entry, health)]
    if described is None:
        return [*findings, _without_sdk(subject, entry)]
    findings += _identity(subject, name, entry, described)
    actions = [action for one in described.participants for action in one.actions if one.name == name]
    if actions:
        findings.append(await _fence(subject, name, entry.endpoint, actions[0]))
    return findings


async def _health(channel: grpc.aio.Channel) -> int | None:
    """The server's status; None where it offers no health service."""
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):
            return None
        raise
    return int(answer.status)


async def _describe(channel: grpc.aio.Channel) -> participant_pb2.DescribeResponse | None:
    """What the server says that it is; None where it is not built with the SDK."""
    stub = participant_pb2_grpc.ParticipantStub(channel)
    try:
        return await stub.Describe(participant_pb2.DescribeRequest(), timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise


def _unreachable(subject: str, entry: Participant, error: grpc.aio.AioRpcError) -> Finding:
    return problem(
        subject,
        f"nothing answers at {entry.endpoint} ({error.code().name}): its Tries fail, and its commands wait",
        "start it, or check the endpoint in the configuration",
    )


def _healthy(subject: str, entry: Participant, status: int | None) -> Finding:
    if status is None:
        return ok(subject, f"{entry.endpoint} answers; it has no gRPC health service to ask")
    if status == health_pb2.HealthCheckResponse.SERVING:
        return ok(subject, f"{entry.endpoint} answers: SERVING")
    return problem(
        subject,
        f"{entry.endpoint} answers that it is {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}",
        "look into its log: most often it is about to end",
    )


def _without_sdk(subject: str, entry: Participant) -> Finding:
    if entry.bridged:
        return ok(subject, "it is built without the SDK; only its own authors can tell how it keeps track of branches")
    return problem(
        subject,
        f"{entry.endpoint} is not built with the SDK, or is no participant at all",
        "set bridged = true if it is a service without the SDK, or mend the endpoint",
    )


def _identity(
    subject: str, name: str, entry: Participant, described: participant_pb2.DescribeResponse
) -> Sequence[Finding]:
    actions = {one.name: len(one.actions) for one in described.participants}
    if name not in actions:
        names = ", ".join(sorted(actions)) or "no name"
        return [
            problem(
                subject,
                f"{entry.endpoint} calls itself {names}: commands for {name} would not reach it",
                f"rename [participants.{name}], give its server name={name!r}, or mend the endpoint",
            )
        ]
    findings = [ok(subject, f"it is built with the SDK, and its actions are {actions[name]}")]
    for one in described.participants:
        for action in one.actions if one.name == name else ():
            paths = (action.try_method, action.confirm_method, action.cancel_method)
            services = {path.rpartition("/")[0] for path in paths}
            if len(set(paths)) < len(paths) or len(services) != 1:
                findings.append(
                    problem(
                        subject,
                        f"its action {', '.join(paths)} is no three methods of one service",
                        "mend the option tcc.v1.action in its proto",
                    )
                )
    if entry.bridged:
        findings.append(
            warning(
                subject,
                "it is built with the SDK, but is configured as bridged: `tcc bridge` and the participant itself "
                "would both consume its commands",
                "take out bridged = true",
            )
        )
    return findings


async def _fence(subject: str, name: str, endpoint: str, action: transaction_pb2.Methods) -> Finding:
    channels = Channels({name: endpoint})
    command = participant_pb2.Command(
        namespace="default",
        gid=f"doctor-{secrets.token_hex(12)}",
        branch="0",
        phase=transaction_pb2.PHASE_CONFIRM,
        methods=action,
        request_hash=hashlib.sha256(b"").digest(),
        attempt=1,
        participant=name,
    )
    try:
        outcome = await CommandCaller(channels, streams=False).call(command, TIMEOUT)
    finally:
        await channels.close()
    if outcome.kind == transaction_pb2.OUTCOME_KIND_NO_TRY:
        return ok(subject, "its fence works: it knows that it never tried a branch that never was")
    if outcome.kind == transaction_pb2.OUTCOME_KIND_BUSY:
        return warning(subject, f"its fence is busy ({outcome.message})", "ask again when there is less to do")
    return problem(
        subject,
        f"its fence does not work ({outcome.message or 'no reason given'}): no branch can be tried or settled",
        "see to its database; `tcc fence-ddl` prints the fence's table, fence.create_tables() makes it",
    )
