"""The manager's configuration: every key, with its meaning, unit, bounds and default.

One frozen object, made once at start and handed to whoever needs it; there is no other configuration. A key's
documentation stands on its field, so errors and docs/configuration.md cannot drift from what is checked. How the values
come out of a file and the environment is in `tcc_server.config_load`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from tcc.amqp.problems import check_url
from tcc.ids import problem_with_id

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")
_PASSWORD = re.compile(r"(://[^/@\s:]*):[^@\s]*@")


class Table(BaseModel):
    """Base of the configuration's tables: frozen, strict about types, and without keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    def __str__(self) -> str:
        return as_toml(self)

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        for name, value in super().__repr_args__():
            yield name, hide_secrets(value) if isinstance(value, str) else value


def _seconds(default: float, description: str, *, gt: float | None = 0, ge: float | None = None) -> Any:
    return Field(default=default, gt=gt, ge=ge, description=description, json_schema_extra={"unit": "seconds"})


def _bytes(default: int, description: str, *, le: int) -> Any:
    return Field(default=default, gt=0, le=le, description=description, json_schema_extra={"unit": "bytes"})


def _address(value: str, lowest_port: int, example: str) -> str:
    match = _HOST_PORT.fullmatch(value)
    if match is None:
        raise ValueError(f"must be host:port, such as {example!r}")
    if not lowest_port <= int(match["port"]) <= 65535:
        raise ValueError(f"has the port {match['port']}: use one from {lowest_port} to 65535")
    return value


def check_listen(value: str) -> str:
    """An address to listen on, checked. Raises ValueError with what to do."""
    return _address(value, 0, "127.0.0.1:7070")


def check_endpoint(value: str) -> str:
    """A participant's address, checked. Raises ValueError with what to do."""
    return _address(value, 1, "127.0.0.1:50061")


def check_log(value: str) -> str:
    """A log's url, checked. Raises ValueError with what to do."""
    if value == "memory:" or re.fullmatch(r"sqlite:///[^?#]+|postgresql(\+asyncpg)?://[^/\s]*/[^/\s]+", value):
        return value
    if value.startswith("postgresql"):
        raise ValueError(
            "must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE, such as 'postgresql://tcc@db:5432/tcc'"
        )
    if value.startswith("sqlite:"):
        raise ValueError(
            "must be sqlite:///FILE (three slashes and a file; four for an absolute path), such as 'sqlite:///tcc.db'"
        )
    raise ValueError(
        "must be 'sqlite:///FILE' to keep the log in a file, 'postgresql://...' to share it with other managers, "
        "or 'memory:' to lose it at exit"
    )


class Participant(Table):
    """A service that takes part in transactions."""

    endpoint: Annotated[str, AfterValidator(check_endpoint)] = Field(
        description="Where the participant's gRPC server listens, as host:port."
    )
    bridged: bool = Field(
        default=False,
        description="The service is built without the SDK: its commands carry the Try's reply, and with courier = "
        "'rabbitmq' a `tcc bridge` consumes them for it.",
    )


class Limits(Table):
    """What a transaction may ask for. A call that asks for more is refused, and says which limit it met."""

    branches: int = Field(default=64, ge=1, le=1024, description="Branches in one transaction.")
    request_bytes: int = _bytes(256 * 1024, "Size of one branch's request message.", le=2 * 1024 * 1024)
    transaction_bytes: int = _bytes(
        1024 * 1024, "Payload of one transaction: its requests and its Try replies together.", le=4 * 1024 * 1024
    )
    open_transactions: int = Field(
        default=100_000, ge=1, description="Transactions in work at one manager; beyond, nothing new is begun."
    )
    default_timeout: float = _seconds(30, "Deadline of a transaction that names none.")
    max_timeout: float = _seconds(3600, "Longest deadline that a transaction may ask for.")

    @model_validator(mode="after")
    def _ordered(self) -> Limits:
        _check_order(self, "request_bytes", "transaction_bytes")
        _check_order(self, "default_timeout", "max_timeout")
        return self


class Retry(Table):
    """When a Try or a command is sent again, and when a person should look."""

    answer_timeout: float = _seconds(10, "A command without an answer is sent again after this; doubles each time.")
    answer_timeout_max: float = _seconds(60, "The longest that answer_timeout doubles to.")
    backoff_first: float = _seconds(0.1, "Pause after a command's first failed outcome; doubles each time, jittered.")
    backoff_max: float = _seconds(10, "The longest pause between failed outcomes of a command.")
    no_try_interval: float = _seconds(60, "Pause after a participant said that it knows no Try for a Confirm.")
    attention_failures: int = Field(
        default=10, ge=1, description="Failed outcomes of one branch after which its transaction needs attention."
    )
    attention_age: float = _seconds(300, "A decided transaction that is older than this needs attention.")
    try_attempt_timeout: float = _seconds(10, "One attempt of a Try may take this long; the Try has its own deadline.")
    try_backoff_first: float = _seconds(0.05, "Pause after the first attempt of a Try that told nothing; doubles.")
    try_backoff_max: float = _seconds(2, "The longest pause between attempts of a Try.")
    expiry_margin: float = _seconds(
        1.0, "Confirm is decided only if this is left before the first reservation expires.", gt=None, ge=0
    )
    record_after: float = _seconds(
        1.0, "A transaction that stays open longer has its outcomes recorded as they come.", gt=None, ge=0
    )

    @model_validator(mode="after")
    def _ordered(self) -> Retry:
        _check_order(self, "answer_timeout", "answer_timeout_max")
        _check_order(self, "backoff_first", "backoff_max")
        _check_order(self, "try_backoff_first", "try_backoff_max")
        return self


def _check_order(table: Table, lower: str, upper: str) -> None:
    low, high = getattr(table, lower), getattr(table, upper)
    if low > high:
        raise ValueError(f"{lower} is {low}, more than {upper}, {high}: lower the one or raise the other")


def check_participant_name(value: str) -> str:
    """A participant's name, checked. Raises ValueError with what to do."""
    problem = problem_with_id("the name", value)
    if problem is not None:
        raise ValueError(problem)
    return value


def _read_only(value: Mapping[str, Participant]) -> Mapping[str, Participant]:
    return MappingProxyType(dict(value))


_Name = Annotated[str, AfterValidator(check_participant_name)]
_Participants = Annotated[Mapping[_Name, Participant], AfterValidator(_read_only)]


def check_otlp(value: str) -> str:
    """An OTLP receiver's address, checked. Raises ValueError with what to do."""
    if value and not re.fullmatch(r"https?://[^\s/]+", value):
        raise ValueError("must be http://HOST:PORT, or https:// for TLS, such as 'http://127.0.0.1:4317'")
    return value


class Tracing(Table):
    """Where the manager's spans go."""

    otlp: Annotated[str, AfterValidator(check_otlp)] = Field(
        default="", description="An OTLP gRPC receiver, such as http://127.0.0.1:4317; empty: spans go nowhere."
    )
    service: str = Field(default="tcc-manager", min_length=1, description="The spans' service.name.")
    sample: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of new traces that are recorded; a trace that came from elsewhere keeps its own decision.",
        json_schema_extra={"unit": "share"},
    )


def check_rabbitmq(value: str) -> str:
    """A RabbitMQ's url, checked. Raises ValueError with what to do."""
    check_url(value)
    return value


class RabbitMQ(Table):
    """The broker that carries commands and outcomes, where courier = 'rabbitmq'."""

    url: Annotated[str, AfterValidator(check_rabbitmq)] = Field(
        default="amqp://127.0.0.1:5672/",
        description="The broker: amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// for TLS; without a user: guest. "
        "One vhost an installation.",
    )
    publish_timeout: float = _seconds(30, "A message that the broker did not confirm within this may be in it or not.")
    heartbeat: int = Field(
        default=10,
        ge=1,
        le=300,
        description="A connection on which nothing came for three times this is given up.",
        json_schema_extra={"unit": "seconds"},
    )


class Config(Table):
    """The manager's configuration."""

    listen: Annotated[str, AfterValidator(check_listen)] = Field(
        default="127.0.0.1:7070", description="Where the manager's gRPC server listens, as host:port; port 0 picks one."
    )
    log: Annotated[str, AfterValidator(check_log)] = Field(
        default="sqlite:///tcc.db",
        description=(
            "The durable record: sqlite:///FILE for one manager, postgresql://USER:PASSWORD@HOST:PORT/DATABASE for any "
            "number of them, or memory: for tests, which loses everything at exit."
        ),
    )
    lease: float = _seconds(
        15,
        "A manager that shares its log counts as dead, and others take over its work, after so long a silence.",
        gt=None,
        ge=1,
    )
    participants: _Participants = Field(
        default_factory=lambda: _read_only({}),
        description="The services that take part, by name; by default that is the gRPC service's full name.",
    )
    courier: Literal["direct", "rabbitmq"] = Field(
        default="direct",
        description="How commands reach participants: direct calls their methods, rabbitmq goes through queues.",
    )
    rabbitmq: RabbitMQ = RabbitMQ()
    limits: Limits = Limits()
    retry: Retry = Retry()
    tracing: Tracing = Tracing()
    drain_timeout: float = _seconds(5, "At SIGTERM, calls under way get this long to finish.", gt=None, ge=0)
    reflection: bool = Field(default=False, description="Offer gRPC server reflection, for grpcurl.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe messages that are written to standard error."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="Form of those messages; auto: console on a terminal, json elsewhere."
    )

    @property
    def sqlite_path(self) -> Path | None:
        """The log's file; None for a log in memory."""
        return Path(self.log.removeprefix("sqlite:///")) if self.log.startswith("sqlite:///") else None


@dataclass(frozen=True, slots=True)
class Key:
    """One configuration key.

    Attributes:
        name: dotted, as in a TOML file; `participants.NAME.endpoint` for what each participant has.
        unit: "seconds", "bytes" or "".
        default: None where the key has none and must be given.
    """

    name: str
    field: FieldInfo
    description: str
    unit: str
    default: object


def keys(table: type[Table] = Config, prefix: str = "") -> Iterator[Key]:
    """Every key, in the order of the documentation."""
    for name, field in table.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Table):
            yield from keys(kind, f"{prefix}{name}.")
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
        yield Key(f"{prefix}{name}", field, field.description or "", str(extra.get("unit", "")), default)
        if name == "participants":
            yield from keys(Participant, f"{prefix}participants.NAME.")


def hide_secrets(text: str) -> str:
    """The text with the password of any url in it replaced by ***."""
    return _PASSWORD.sub(r"\1:***@", text)


def as_toml(table: Table) -> str:
    """The configuration as a TOML file would give it, with secrets hidden."""
    return "\n".join(_lines(table, "")).strip()


def _lines(table: Table, prefix: str) -> Iterator[str]:
    below: list[tuple[str, Table]] = []
    for name, value in table:
        if isinstance(value, Table):
            below.append((f"{prefix}{name}", value))
        elif isinstance(value, Mapping):
            below.extend((f"{prefix}{name}.{_quoted(key)}", item) for key, item in value.items())
        else:
            yield f"{name} = {_literal(value)}"
    for name, item in below:
        yield ""
        yield f"[{name}]"
        yield from _lines(item, f"{name}.")


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return _quoted(hide_secrets(value)) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
