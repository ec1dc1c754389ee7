"""What the client itself refuses, because no manager could ever take it: times without end, and messages too large."""

from __future__ import annotations

from tcc.errors import UsageError

LONGEST = 1e9
"""Seconds: thirty years, more than a protobuf Duration or any manager would do with. Managers say what they take."""

MESSAGE_BYTES = 8 * 1024 * 1024 - 64 * 1024
"""The largest request that a manager's gRPC server takes, which is 8 MiB with the list and the metadata around it.

What is larger gRPC turns away without the manager's word, and all that is under way on the same stream with it.
"""


def check_timeout(timeout: float, of: str = "") -> None:
    """Refuse what is no length of time in seconds.

    Args:
        of: whose timeout it is, for the message.

    Raises:
        UsageError: it is zero, negative, no number or without end.
    """
    if not 0 < timeout <= LONGEST:
        subject = f"{of}: timeout" if of else "timeout"
        raise UsageError(f"{subject}={timeout} is no time that a call can take: give seconds above 0")


def check_size(size: int, gid: str) -> None:
    """Refuse a request that gRPC would not carry to any manager.

    Args:
        size: of the request, in bytes.

    Raises:
        UsageError: it is too large.
    """
    if size > MESSAGE_BYTES:
        raise UsageError(
            f"the request for transaction {gid} has {size} bytes, and a manager takes at most {MESSAGE_BYTES}: keep "
            "large content elsewhere, and pass a reference to it"
        )
