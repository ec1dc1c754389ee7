"""The Caller without a network: calls a participant that lives in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tcc import wire
from tcc.participant import ParticipantRuntime
from tcc_server.caller import metadata
from tcc_server.caller.seam import TryCall, TryReply
from tcc_server.core import rules
from tcc_server.core.model import Status


class LocalCaller:
    """Calls participants by name.

    Args:
        participants: name to the runtime that carries its phases out.
    """

    def __init__(self, participants: Mapping[str, ParticipantRuntime]) -> None:
        self._participants = participants

    async def call(self, call: TryCall) -> TryReply:
        """Carry the attempt out; whatever happens is a status."""
        runtime = self._participants.get(call.ask.participant)
        if runtime is None:
            return TryReply(Status(rules.UNAVAILABLE, f"participant {call.ask.participant} is not here"))
        try:
            async with asyncio.timeout(call.timeout):
                answer = await runtime.attempt(
                    call.ask.methods.try_method,
                    call.ask.request,
                    metadata.for_try(call, call.trace),
                    timeout=call.timeout,
                )
        except TimeoutError:
            return TryReply(Status(rules.DEADLINE_EXCEEDED, f"no answer within {call.timeout:g} s"))
        return TryReply(
            Status(answer.code.value[0], answer.message, answer.details),
            answer.reply,
            marked=metadata.is_marked(answer.trailers),
            expires_in=metadata.expires_in(answer.trailers),
            retry_after=wire.retry_delay(answer.details),
            trailers=answer.trailers,
        )
