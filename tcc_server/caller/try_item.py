"""A Try as an item of a list: the bytes of a `TryStreamRequest.Item`, put together from parts.

Protobuf messages can be concatenated, and nearly all of an item is the same for every Try of an action or differs in a
few short values. So no message is made that is only serialised again, which costs four times as much. The bytes are
those that the message would have, up to the order of its metadata; a test holds the two together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from tcc import wire
from tcc.streams import varint
from tcc.v1.participant_pb2 import TryStreamRequest
from tcc.v1.transaction_pb2 import Metadata, Methods as MethodsMessage
from tcc_server.caller.seam import TryCall
from tcc_server.core.model import Methods

_Item = TryStreamRequest.Item
_REQUEST: Final = varint(_Item.DESCRIPTOR.fields_by_name["request"].number << 3 | 2)  # with a length
_ID: Final = varint(_Item.DESCRIPTOR.fields_by_name["id"].number << 3)
_SHORT: Final = 96
"""Bytes of a value up to which an entry's lengths are of one byte each, as those of all our own are."""


def _template(key: str) -> tuple[bytes, int]:
    """For an entry of metadata with a short value: what to fill length of the entry, length of the value and the value
    into, and the length without the value.
    """
    empty = _Item(metadata=[Metadata(key=key, value=b"?")]).SerializeToString()
    before, size, rest = empty[:1], empty[1], empty[2:-2]
    return before + b"%c" + rest + b"%c%b", size - 1


_GID, _GID_SIZE = _template(wire.GID)
_BRANCH, _BRANCH_SIZE = _template(wire.BRANCH)
_DEADLINE, _DEADLINE_SIZE = _template(wire.DEADLINE)
_HASH, _HASH_SIZE = _template(wire.REQUEST_HASH)
_PARENT, _PARENT_SIZE = _template(wire.TRACEPARENT)
_OWN: Final = _GID + _BRANCH + _DEADLINE + _HASH


def try_item(number: int, call: TryCall, traceparent: str, tracestate: str) -> bytes:
    """The serialised item.

    Args:
        number: its id on the stream.
        traceparent: of the span that calls.
        tracestate: of the same.
    """
    ask, key = call.ask, call.key
    request = ask.request
    gid, step, digest = key.gid.encode(), ask.step.encode(), ask.request_hash.hex().encode()
    deadline = b"%d" % (call.deadline_at * 1000)
    parts = [
        _ID,
        varint(number),
        _constant(ask.methods, key.namespace, call.attempt),
        _timeout(call.timeout),
        _REQUEST,
        varint(len(request)),
        request,
    ]
    g, b, d, h = len(gid), len(step), len(deadline), len(digest)
    if g < _SHORT and b < _SHORT and d < _SHORT and h < _SHORT:
        g_, b_, d_, h_ = g + _GID_SIZE, b + _BRANCH_SIZE, d + _DEADLINE_SIZE, h + _HASH_SIZE
        parts.append(_OWN % (g_, g, gid, b_, b, step, d_, d, deadline, h_, h, digest))
    else:
        parts += (_entry(wire.GID, gid), _entry(wire.BRANCH, step))
        parts += (_entry(wire.DEADLINE, deadline), _entry(wire.REQUEST_HASH, digest))
    if traceparent:
        parent = traceparent.encode()
        p = len(parent)
        parts.append(_PARENT % (p + _PARENT_SIZE, p, parent) if p < _SHORT else _entry(wire.TRACEPARENT, parent))
        if tracestate:
            parts.append(_entry(wire.TRACESTATE, tracestate.encode()))
    if ask.metadata:
        parts += [_entry(name, value) for name, value in ask.metadata]
    return b"".join(parts)


@lru_cache(1024)
def _constant(methods: Methods, namespace: str, attempt: int) -> bytes:
    """What is the same for many Tries."""
    return _Item(
        methods=MethodsMessage(
            try_method=methods.try_method, confirm_method=methods.confirm_method, cancel_method=methods.cancel_method
        ),
        metadata=[
            Metadata(key=wire.NAMESPACE, value=namespace.encode()),
            Metadata(key=wire.PHASE, value=b"try"),
            Metadata(key=wire.ATTEMPT, value=b"%d" % attempt),
        ],
    ).SerializeToString()


@lru_cache(128)
def _timeout(timeout: float) -> bytes:
    """The same for all first attempts that have time enough."""
    item = _Item()
    item.timeout.seconds = seconds = int(timeout)
    item.timeout.nanos = int((timeout - seconds) * 1e9)
    return item.SerializeToString()


def _entry(key: str, value: bytes) -> bytes:
    return _Item(metadata=[Metadata(key=key, value=value)]).SerializeToString()
