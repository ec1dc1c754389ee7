"""What stands between us and RabbitMQ, in words that say what to do."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelPreconditionFailed,
    IncompatibleProtocolError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)


class QueueGone(Exception):
    """The queue that was published to or consumed from has been deleted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing in the way.

    Attributes:
        what: it is, and what to do about it; the same each time that it happens.
        lasting: only a person ends it, so trying often is no use.
        said: the broker's or the library's own words, which may have something new in them each time.
        rest: seconds that the broker is left alone first, at least.
    """

    what: str
    lasting: bool
    said: str = ""
    rest: float = 0.0

    @property
    def text(self) -> str:
        """All of it, in one line without secrets."""
        return f"{self.what} ({self.said})" if self.said else self.what


def check_url(url: str) -> None:
    """Whether this can be a RabbitMQ's URL at all. Raises ValueError that says what to do."""
    form = "must be amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// for TLS"
    try:
        read = urlsplit(url)
        found = read.scheme in ("amqp", "amqps") and bool(read.hostname) and read.port != 0
    except ValueError:
        found = False
    if not found:
        raise ValueError(form)


def where(url: str) -> str:
    """A broker's address, for messages."""
    read = urlsplit(url)
    return f"{read.hostname}:{read.port or (5671 if read.scheme == 'amqps' else 5672)}"


def explain(error: BaseException | None, url: str) -> Problem:
    """What an error of the connection means.

    Args:
        error: what was raised, or why the connection ended; None where nobody said.
        url: the connection's.
    """
    read = urlsplit(url)
    user, vhost = unquote(read.username or "guest"), unquote(read.path[1:]) or "/"
    at = f"RabbitMQ at {where(url)}"
    said = _words(error)
    # The library expected the vhost to be opened, and keeps the broker's own words to itself.
    if "Connection.OpenOk" in said:
        return Problem(
            f"{at} does not open vhost {vhost!r} to user {user!r}: rabbitmqctl add_vhost {vhost}, then "
            f"rabbitmqctl set_permissions -p {vhost} {user} '^tcc\\.' '^(tcc\\.|amq\\.default$)' '^tcc\\.', "
            "or name another in the url",
            True,
        )
    match error:
        case QueueGone():
            # Whoever is first declares it anew; where that meets the deletion, RabbitMQ 3.10 may never recover it.
            return Problem(f"{at} has lost the queue: it is declared anew", False, rest=1.0)
        case ProbableAuthenticationError() | AuthenticationError():
            return Problem(f"{at} does not let user {user!r} in: check user and password of the url", True, said)
        case ChannelAccessRefused():
            return Problem(
                f"{at} refuses user {user!r} a permission: "
                f"rabbitmqctl set_permissions -p {vhost} {user} '^tcc\\.' '^(tcc\\.|amq\\.default$)' '^tcc\\.'",
                True,
                said,
            )
        case ChannelPreconditionFailed():
            return Problem(
                f"{at} has this queue or exchange with other arguments: delete it, and it is declared as it "
                "must be; no command is lost, each is sent again until it is answered",
                True,
                said,
            )
        case IncompatibleProtocolError() | ProtocolSyntaxError():
            return Problem(f"what listens at {where(url)} does not speak AMQP 0-9-1: check the url", True, said)
    if "vhost" in said and "not found" in said:
        return Problem(f"{at} has no vhost {vhost!r}: rabbitmqctl add_vhost {vhost}, or name another in the url", True)
    if "access to vhost" in said:
        return Problem(
            f"{at} refuses user {user!r} the vhost {vhost!r}: "
            f"rabbitmqctl set_permissions -p {vhost} {user} '^tcc\\.' '^(tcc\\.|amq\\.default$)' '^tcc\\.'",
            True,
        )
    if "Cannot declare" in said:
        what = f"{at} cannot declare a queue: its log says why; where nothing else helps, delete the queue"
        return Problem(what, True, said)
    if "INTERNAL_ERROR" in said:
        return Problem(f"{at} failed: its log says why", False, said, rest=1.0)
    if isinstance(error, TimeoutError):
        return Problem(f"{at} does not answer", False)
    return Problem(f"{at} cannot be reached", False, said)


def _words(error: BaseException | None) -> str:
    if error is None:
        return "the connection ended"
    text = " ".join(str(part) for part in error.args if part is not None) or type(error).__name__
    return " ".join(text.split())[:300]
