"""The contract of the Caller seam: whatever a participant or the network does is a status, told as it came."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from tcc_server.core.model import Key
from tests.links.participant import Links, call


async def test_a_reservation_comes_with_its_reply(links: Links) -> None:
    reply = await links.caller.call(call())
    assert reply.status.code == 0
    assert pb.DebitReply.FromString(reply.reply).reservation_id == "held"
    assert not reply.marked


async def test_a_refusal_comes_with_its_mark_code_and_text(links: Links) -> None:
    async def refuse(context: Any) -> None:
        raise tcc.Refused("no money", grpc.StatusCode.RESOURCE_EXHAUSTED)

    links.told.on_try = refuse
    reply = await links.caller.call(call())
    assert (reply.status.code, reply.status.message, reply.marked) == (8, "no money", True)


async def test_a_status_that_does_not_refuse_has_no_mark(links: Links) -> None:
    async def fail(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    links.told.on_try = fail
    reply = await links.caller.call(call())
    assert (reply.status.code, reply.status.message, reply.marked) == (14, "not now", False)


async def test_an_expiry_and_other_trailers_come_along(links: Links) -> None:
    async def expire(context: Any) -> None:
        context.set_trailing_metadata((("tcc-expires-in", "1500"), ("x-mine", "yes")))

    links.told.on_try = expire
    reply = await links.caller.call(call())
    assert reply.expires_in == 1.5
    assert ("x-mine", "yes") in tuple(reply.trailers)


async def test_an_expiry_that_cannot_be_read_is_trusted_for_no_time(links: Links) -> None:
    async def expire(context: Any) -> None:
        context.set_trailing_metadata((("tcc-expires-in", "soon"),))

    links.told.on_try = expire
    assert (await links.caller.call(call())).expires_in == 0.0


async def test_a_retry_info_is_read(links: Links) -> None:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000)))
    details = status_pb2.Status(code=14, details=[detail]).SerializeToString()

    async def later(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "later", (("grpc-status-details-bin", details),))

    links.told.on_try = later
    assert (await links.caller.call(call())).retry_after == 2.5


async def test_an_attempt_without_an_answer_ends_at_its_timeout(links: Links) -> None:
    async def hang(context: Any) -> None:
        await asyncio.Event().wait()

    links.told.on_try = hang
    assert (await links.caller.call(call(timeout=0.2))).status.code in (4, 14)


async def test_a_participant_that_is_not_configured_is_a_status(links: Links) -> None:
    assert (await links.caller.call(call(participant="nobody"))).status.code == 14


async def test_a_method_that_the_participant_does_not_have_is_refused_with_the_mark(links: Links) -> None:
    wrong = call()
    methods = wrong.ask.methods._replace(try_method="/services.accounts.v1.Accounts/TryRobbery")
    reply = await links.caller.call(replace(wrong, ask=replace(wrong.ask, methods=methods)))
    assert (reply.status.code, reply.marked) == (12, True)
    assert "TryDebit" in reply.status.message


@pytest.mark.parametrize("times", [2, 3])
async def test_a_repeated_attempt_has_the_same_answer_and_one_effect(links: Links, times: int) -> None:
    replies = [await links.caller.call(call(attempt=attempt + 1)) for attempt in range(times)]
    assert len({reply.reply for reply in replies}) == 1
    assert links.told.runs == ["try g"]


async def test_damaged_details_are_those_of_a_stranger_and_the_answer_is_heard_all_the_same(links: Links) -> None:
    kinds = (error_details_pb2.RetryInfo, error_details_pb2.ErrorInfo)
    damaged = [
        any_pb2.Any(type_url=f"type.googleapis.com/{kind.DESCRIPTOR.full_name}", value=b"\x0f") for kind in kinds
    ]
    details = status_pb2.Status(code=14, message="not now", details=damaged).SerializeToString()

    async def fail(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not now", (("grpc-status-details-bin", details),))

    assert (await links.caller.call(call())).status.code == 0
    links.told.on_try = fail
    async with asyncio.timeout(5):  # the second by the quick way of a stream that works
        reply = await links.caller.call(replace(call(), key=Key("default", "another")))
    assert (reply.status.code, reply.status.message, reply.retry_after) == (14, "not now", None)
