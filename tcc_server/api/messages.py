"""The answers of a stream, in messages that gRPC carries.

A message that is larger than gRPC takes ends its stream, and every call on it is unknown then. Answers with payloads
are up to a mebibyte each, so those that wait together may be more than one message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from tcc.streams import listed

_MESSAGE_BYTES: Final = 1024 * 1024
"""Of one message, unless a single answer is larger."""


class InMessages:
    """A stream's gRPC context, for a `ListServer` whose answers go out as they are.

    Args:
        context: gRPC's.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        """gRPC's own."""
        await self._context.abort(code, details)

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        """gRPC's own."""
        await self._context.send_initial_metadata(metadata)

    async def write(self, answers: Sequence[bytes]) -> None:
        """Sends serialised answers, in as many messages as they take."""
        for message in _messages(answers):
            await self._context.write(message)


def _messages(answers: Sequence[bytes]) -> Iterator[bytes]:
    begin = size = 0
    for end, answer in enumerate(answers):
        if size and size + len(answer) > _MESSAGE_BYTES:
            yield listed(answers[begin:end])
            begin, size = end, 0
        size += len(answer)
    yield listed(answers[begin:])
