"""Keeps answers within what trailers can carry.

A status travels in trailing metadata, of which a client takes 8 KiB and gRPC replaces what is larger by an error of its
own. An answer that is too long must lose words, never its meaning.
"""

from __future__ import annotations

from tcc.v1 import transaction_pb2 as pb

MESSAGE_BYTES = 1024
"""For a status message: percent-encoded up to 3 KiB on the wire, and once more in the details."""
_CANCELLED_BYTES = 3 * 1024
_DOTS = "..."


def cut(text: str, limit: int = MESSAGE_BYTES) -> str:
    """The text, or as much of its beginning as fits into so many bytes of UTF-8."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    return encoded[: max(0, limit - len(_DOTS))].decode(errors="ignore") + _DOTS


def fitting(cancelled: pb.Cancelled) -> pb.Cancelled:
    """What stood in the way, as much of it as fits: first the details of refusals go, then their texts get shorter.

    The first refusal always stays. `Get` tells the whole.
    """
    fits = pb.Cancelled(gid=cancelled.gid, reason=cancelled.reason)
    left = _CANCELLED_BYTES - fits.ByteSize()
    for refusal in cancelled.refusals:
        size = _size(refusal)
        if size > left:
            refusal = pb.Refusal.FromString(refusal.SerializeToString())
            refusal.status.details = b""
            over = _size(refusal) - left
            if over > 0:
                refusal.status.message = cut(refusal.status.message, len(refusal.status.message.encode()) - over)
            size = _size(refusal)
            if size > left and fits.refusals:
                break
        fits.refusals.append(refusal)
        left -= size
    return fits


def _size(refusal: pb.Refusal) -> int:
    return refusal.ByteSize() + 4  # its tag and length within the list
