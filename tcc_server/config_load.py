"""Reads the configuration out of a TOML file, the environment and the command line, and says all that is wrong at once.

    1. what the command line gives      wins over
    2. the environment: TCC_LISTEN, TCC_RETRY__BACKOFF_MAX (nested by two underscores), which wins over
    3. the TOML file, which wins over the defaults.

Nothing is ignored silently: a misspelt key or variable is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tcc_server.config import Config, Key, hide_secrets, keys

PREFIX = "TCC_"
_NOT_OURS = frozenset({"TCC_MANAGER"})
"""Read by the commands that call a manager, not by the manager."""

_SERVICE_LINK = re.compile(
    r"TCC_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes puts into every container near a Service named `tcc` or `tcc-...`: no keys of ours."""

_KEYS = {key.name: key for key in keys()}


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has one line for each thing to mend."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(slots=True)
class _Gathered:
    """Values from all sources, and which source gave each."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[tuple[str, ...], str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, path: tuple[str, ...], value: object, origin: str) -> None:
        """Set one key; a later source replaces what an earlier one set."""
        table = self.values
        for depth, name in enumerate(path[:-1], start=1):
            below = table.setdefault(name, {})
            if not isinstance(below, dict):
                self.problems.append(f"{origin}: {'.'.join(path[:depth])} is one value and has no keys below it")
                return
            table = below
        table[path[-1]] = value
        self.origins[path] = origin

    def origin(self, path: tuple[str, ...]) -> str:
        """The source of a key, or else of what surrounds it, or else of what is in it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        within = {origin: None for other, origin in self.origins.items() if other[: len(path)] == path}
        return ", ".join(within)


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """The configuration from all its sources.

        config = load(Path("tcc.toml"), os.environ)

    Args:
        file: a TOML file; None for none.
        environ: environment variables; those that begin with `TCC_` count.
        overrides: top-level keys from the command line.

    Raises:
        ConfigError: one line for each thing that is wrong, with the key, the value and what to do.
    """
    gathered = _Gathered()
    if file is not None:
        _read_file(gathered, file)
    _read_environment(gathered, environ or {})
    for name, value in (overrides or {}).items():
        gathered.put((name,), value, "command line")
    config: Config | None = None
    try:
        config = Config.model_validate(gathered.values)
    except ValidationError as wrong:
        gathered.problems.extend(_problem(gathered, dict(error)) for error in wrong.errors(include_url=False))
    if config is None or gathered.problems:
        raise ConfigError(gathered.problems)
    return config


def _read_file(gathered: _Gathered, file: Path) -> None:
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{file}: no such file: give the path of a TOML file"]) from None
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{file}: byte {error.start} is not UTF-8: save the file as UTF-8"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{file}: not TOML: {error}"]) from error
    for name, value in document.items():
        if isinstance(value, dict) and name != "participants":
            gathered.values[name] = {}
            for below, item in value.items():
                gathered.put((name, below), item, str(file))
        else:
            gathered.put((name,), value, str(file))


def _read_environment(gathered: _Gathered, environ: Mapping[str, str]) -> None:
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in _NOT_OURS:
            continue
        if _SERVICE_LINK.fullmatch(variable) and "__" not in variable:
            continue
        path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        raw = environ[variable]
        if path[0] == "participants":
            _read_participants(gathered, variable, path, raw)
            continue
        key = _KEYS.get(".".join(path))
        if key is None:
            gathered.problems.append(f"{variable}: no such key{_suggest('.'.join(path), _variable)}")
            continue
        gathered.put(path, raw if _is_text(key) else _value_of(raw), variable)


def _read_participants(gathered: _Gathered, variable: str, path: tuple[str, ...], raw: str) -> None:
    form = """TCC_PARTICIPANTS='{"NAME": {"endpoint": "HOST:PORT"}}'"""
    if len(path) > 1:
        gathered.problems.append(f"{variable}: names of participants keep their case; give them all at once: {form}")
        return
    try:
        value = json.loads(raw)
    except ValueError as error:
        gathered.problems.append(f"{variable}: not JSON ({error}); the form is {form}")
        return
    gathered.put(path, value, variable)


def _value_of(raw: str) -> object:
    """A number or truth value as TOML reads it; what is neither stays text, and its field's check says so."""
    try:
        document = tomllib.loads(f"value = {raw.strip().lower()}")
    except tomllib.TOMLDecodeError:
        return raw
    value = document["value"]
    return value if len(document) == 1 and isinstance(value, (int, float)) else raw


def _is_text(key: Key) -> bool:
    return isinstance(key.default, str)


def _variable(name: str) -> str:
    return PREFIX + name.upper().replace(".", "__")


def _problem(gathered: _Gathered, error: dict[str, Any]) -> str:
    """One line for one of pydantic's errors: where, which key, the value, what is wrong, what to do."""
    path = tuple(str(part) for part in error["loc"])
    name = ".".join(part for part in path if part != "[key]")
    origin = gathered.origin(path)
    key = _KEYS.get(re.sub(r"^participants\..*\.(\w+)$", r"participants.NAME.\1", name))
    if error["type"] == "extra_forbidden":
        return f"{origin}: {name}: no such key{_suggest(name, str)}"
    wrong = _in_words(error["type"], error.get("ctx", {}), error["msg"])
    if error["type"] == "missing" or isinstance(error["input"], dict) or path[-1] == "[key]":
        return f"{origin}: {name}: {wrong}"
    if key is not None and key.unit:
        wrong += f" ({key.unit}; the default is {key.default})"
    return f"{origin}: {name} = {hide_secrets(json.dumps(error['input'], default=str))}: {wrong}"


def _in_words(kind: str, facts: dict[str, Any], message: str) -> str:
    match kind:
        case "missing":
            return "is missing and has no default"
        case "float_type" | "float_parsing":
            return "must be a number"
        case "int_type" | "int_parsing" | "int_from_float":
            return "must be a whole number"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "string_type":
            return "must be text in quotes"
        case "finite_number":
            return "must be a finite number"
        case "greater_than":
            return f"must be more than {facts['gt']:g}"
        case "greater_than_equal":
            return f"must be {facts['ge']:g} or more"
        case "less_than_equal":
            return f"must be {facts['le']} or less"
        case "literal_error":
            return f"must be one of {facts['expected']}"
        case "model_type" | "dict_type" | "mapping_type" | "is_instance_of":
            return "must be a table with keys of its own"
        case "value_error":
            return str(facts["error"])
        case _:
            return message


def _suggest(name: str, form: Any) -> str:
    above = [key for key in _KEYS if name.startswith(f"{key}.") and key != "participants"]
    if above:
        return f"; {form(above[0])} is one value"
    known = [key for key in _KEYS if key.startswith("participants.NAME.") == name.startswith("participants.")]
    last = name.rpartition(".")[2]
    by_last = {key.rpartition(".")[2]: key for key in known}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    near = near or [by_last[match] for match in difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.75)]
    return f"; did you mean {form(near[0])}?" if near else "; docs/configuration.md lists them all"
