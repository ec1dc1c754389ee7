"""What stands between us and RabbitMQ, in words that say what to do."""

from __future__ import annotations

from dataclasses import dataclass

from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelPreconditionFailed,
    IncompatibleProtocolError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)
from yarl import URL


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing in the way.

    Attributes:
        text: what it is, and what to do about it; one line without secrets.
        lasting: only a person ends it, so trying often is no use.
    """

    text: str
    lasting: bool


def check_url(url: str) -> None:
    """Whether this can be a RabbitMQ's URL at all. Raises ValueError that says what to do."""
    form = "must be amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// for TLS"
    try:
        read = URL(url)
    except ValueError as error:
        raise ValueError(f"{form} ({error})") from None
    if read.scheme not in ("amqp", "amqps") or not read.host:
        raise ValueError(form)


def where(url: str) -> str:
    """A broker's address, for messages."""
    read = URL(url)
    return f"{read.host}:{read.port or (5671 if read.scheme == 'amqps' else 5672)}"


def explain(error: BaseException | None, url: str) -> Problem:
    """What an error of the connection means.

    Args:
        error: what was raised, or why the connection ended; None where nobody said.
        url: the connection's.
    """
    read = URL(url)
    user, vhost = read.user or "guest", read.path[1:] or "/"
    at = f"RabbitMQ at {where(url)}"
    said = _words(error)
    match error:
        case ProbableAuthenticationError() | AuthenticationError():
            return Problem(f"{at} does not let user {user!r} in: check user and password of the url ({said})", True)
        case ChannelAccessRefused():
            return Problem(
                f"{at} refuses user {user!r} a permission ({said}): "
                f"rabbitmqctl set_permissions -p {vhost} {user} '^tcc\\.' '^(tcc\\.|amq\\.default$)' '^tcc\\.'",
                True,
            )
        case ChannelPreconditionFailed():
            return Problem(
                f"{at} has this queue or exchange with other arguments ({said}): delete it, and it is declared as it "
                "must be; no command is lost, each is sent again until it is answered",
                True,
            )
        case IncompatibleProtocolError() | ProtocolSyntaxError():
            return Problem(f"what listens at {where(url)} does not speak AMQP 0-9-1: check the url ({said})", True)
    if "vhost" in said and "not found" in said:
        return Problem(f"{at} has no vhost {vhost!r}: rabbitmqctl add_vhost {vhost}, or name another in the url", True)
    if "access to vhost" in said:
        return Problem(
            f"{at} refuses user {user!r} the vhost {vhost!r}: "
            f"rabbitmqctl set_permissions -p {vhost} {user} '^tcc\\.' '^(tcc\\.|amq\\.default$)' '^tcc\\.'",
            True,
        )
    if isinstance(error, TimeoutError):
        return Problem(f"{at} does not answer", False)
    return Problem(f"{at} cannot be reached ({said})", False)


def _words(error: BaseException | None) -> str:
    if error is None:
        return "the connection ended"
    text = " ".join(str(part) for part in error.args if part is not None) or type(error).__name__
    return " ".join(text.split())[:300]
