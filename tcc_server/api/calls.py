"""Calls of interactive transactions in lists (`CallStream`): each is answered as it would be by itself.

Answers are put together as bytes, as protobuf allows, so that no message is made that is only serialised again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from tcc.streams import varint
from tcc.v1 import manager_pb2 as pb, transaction_pb2
from tcc_server.api.errors import Failure

Method: TypeAlias = Literal["Begin", "Try", "Confirm", "Cancel"]
Item: TypeAlias = pb.CallStreamRequest.Item
Trailers: TypeAlias = Iterable[tuple[str, str | bytes]]

_METHODS: Final[dict[str | None, Method]] = {
    "begin_request": "Begin",
    "try_request": "Try",
    "confirm_request": "Confirm",
    "cancel_request": "Cancel",
}


def method_of(item: Item) -> Method | None:
    """Which call an item is; None where this manager knows none such."""
    return _METHODS.get(item.WhichOneof("call"))


def answered(number: int, method: Method, body: bytes, trailers: Trailers = ()) -> bytes:
    """The bytes of the item that answers a call with OK.

    Args:
        number: the call's.
        method: that was called.
        body: what field 1 of its response is: the transaction, serialised, or a Try's reply.
        trailers: the call's trailing metadata.
    """
    response = _FIELD_1 + varint(len(body)) + body
    head = _ID + varint(number) + _RESPONSE[method] + varint(len(response))
    return b"".join((head, response, *(_trailer(key, value) for key, value in trailers)))


def failed(number: int, failure: Failure, trailers: Trailers = ()) -> bytes:
    """The same for any other status."""
    error = transaction_pb2.CallStatus(code=failure.code.value[0], message=failure.message, details=failure.details)
    item = pb.CallStreamResponse.Item(id=number, error=error)
    return b"".join((item.SerializeToString(), *(_trailer(key, value) for key, value in trailers)))


@lru_cache(256)
def _known_trailer(key: str, value: str) -> bytes:
    return _made_trailer(key, value.encode())


def _trailer(key: str, value: str | bytes) -> bytes:
    if isinstance(value, str) and len(value) <= _KNOWN_LENGTH:  # nearly always a mark, one of very few
        return _known_trailer(key, value)
    return _made_trailer(key, value if isinstance(value, bytes) else value.encode())


def _made_trailer(key: str, value: bytes) -> bytes:
    trailer = transaction_pb2.Metadata(key=key, value=value)
    return pb.CallStreamResponse.Item(trailers=(trailer,)).SerializeToString()


_KNOWN_LENGTH: Final = 64
_FIELDS: Final = pb.CallStreamResponse.Item.DESCRIPTOR.fields_by_name
_ID: Final = varint(_FIELDS["id"].number << 3)
_RESPONSE: Final = {
    method: varint(_FIELDS[field.replace("_request", "_response")].number << 3 | 2)
    for field, method in _METHODS.items()
    if field is not None
}
_FIELD_1: Final = varint(1 << 3 | 2)
