"""Every way in which a configuration can be wrong: the error names the key, the value and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcc_server.config_load import ConfigError, load

IN_THE_FILE = {
    "wrong type for text": ("listen = 7070", "listen = 7070: must be text in quotes"),
    "address without a port": (
        'listen = "localhost"',
        "listen = \"localhost\": must be host:port, such as '127.0.0.1:7070'",
    ),
    "port out of range": ('listen = "h:70000"', 'listen = "h:70000": has the port 70000: use one from 0 to 65535'),
    "text for a number": ('drain_timeout = "8s"', 'drain_timeout = "8s": must be a number (seconds; the default is 5)'),
    "truth value for a number": ("drain_timeout = true", "drain_timeout = true: must be a number"),
    "number for a truth value": ("reflection = 1", "reflection = 1: must be true or false"),
    "infinite time": ("drain_timeout = inf", "must be a finite number (seconds; the default is 5)"),
    "negative time": ("drain_timeout = -1", "drain_timeout = -1: must be 0 or more (seconds"),
    "zero time": (
        "[retry]\nbackoff_max = 0",
        "retry.backoff_max = 0: must be more than 0 (seconds; the default is 10)",
    ),
    "fraction for a count": ("[limits]\nbranches = 1.5", "limits.branches = 1.5: must be a whole number"),
    "too many": ("[limits]\nbranches = 5000", "limits.branches = 5000: must be 1024 or less"),
    "none at all": ("[limits]\nbranches = 0", "limits.branches = 0: must be 1 or more"),
    "too large": ("[limits]\nrequest_bytes = 99999999", "must be 2097152 or less (bytes; the default is 262144)"),
    "not one of the choices": ('log_format = "xml"', "must be one of 'auto', 'console' or 'json'"),
    "misspelt key": ('lisen = "h:1"', "lisen: no such key; did you mean listen?"),
    "misspelt nested key": (
        "[retry]\nbackof_max = 1",
        "retry.backof_max: no such key; did you mean retry.backoff_max?",
    ),
    "key outside of its table": ("branches = 3", "branches: no such key; did you mean limits.branches?"),
    "strange key": ("colour = 3", "colour: no such key; docs/configuration.md lists them all"),
    "value for a table": ("limits = 4", "limits = 4: must be a table with keys of its own"),
    "value for the participants": ("participants = 4", "participants = 4: must be a table with keys of its own"),
    "value for a participant": (
        "[participants]\nbank = 4",
        "participants.bank = 4: must be a table with keys of its own",
    ),
    "ill-lettered participant": (
        '[participants."bank a"]\nendpoint = "h:1"',
        "participants.bank a: the name 'bank a' has characters other than",
    ),
    "participant without endpoint": (
        "[participants.bank]",
        "participants.bank.endpoint: is missing and has no default",
    ),
    "participant's endpoint": ('[participants.bank]\nendpoint = "h:0"', "has the port 0: use one from 1 to 65535"),
    "participant's misspelt key": (
        '[participants.bank]\nendpoint = "h:1"\nendpint = "h:2"',
        "participants.bank.endpint: no such key; did you mean participants.NAME.endpoint?",
    ),
    "log that isn't known": ('log = "mysql://h/d"', "must be 'sqlite:///FILE' to keep the log in a file"),
    "log without a database": (
        'log = "postgresql://user@host"',
        "must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
    ),
    "log with two slashes": ('log = "sqlite://tcc.db"', "three slashes and a file"),
    "limits that contradict": (
        "[limits]\nmax_timeout = 5",
        "limits: default_timeout is 30, more than max_timeout, 5.0: lower the one or raise the other",
    ),
    "sizes that contradict": (
        "[limits]\ntransaction_bytes = 1000",
        "limits: request_bytes is 262144, more than transaction_bytes, 1000: lower the one or raise the other",
    ),
    "clocks that contradict": ("[retry]\nbackoff_first = 20", "backoff_first is 20.0, more than backoff_max, 10"),
}

IN_THE_ENVIRONMENT = {
    "misspelt": ("TCC_RETRY__BACKOF_MAX", "1", "no such key; did you mean TCC_RETRY__BACKOFF_MAX?"),
    "strange": ("TCC_COLOUR", "red", "no such key; docs/configuration.md lists them all"),
    "text for a number": ("TCC_DRAIN_TIMEOUT", "soon", 'drain_timeout = "soon": must be a number (seconds'),
    "two values at once": ("TCC_DRAIN_TIMEOUT", "1\ny = 2", "must be a number (seconds"),
    "no truth value": ("TCC_REFLECTION", "yes", 'reflection = "yes": must be true or false'),
    "below a value": ("TCC_LISTEN__PORT", "1", "no such key; TCC_LISTEN is one value"),
    "participants one by one": (
        "TCC_PARTICIPANTS__BANK__ENDPOINT",
        "h:1",
        "give them all at once: TCC_PARTICIPANTS='{",
    ),
    "participants not JSON": ("TCC_PARTICIPANTS", "bank=h:1", "not JSON"),
    "participants' form": ("TCC_PARTICIPANTS", '{"bank": "h:1"}', "must be a table with keys of its own"),
}


@pytest.mark.parametrize(("text", "said"), IN_THE_FILE.values(), ids=IN_THE_FILE)
def test_wrong_in_the_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tcc.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert len(caught.value.problems) == 1, caught.value
    assert caught.value.problems[0].startswith(f"{file}: ")
    assert said in caught.value.problems[0]


@pytest.mark.parametrize(("variable", "value", "said"), IN_THE_ENVIRONMENT.values(), ids=IN_THE_ENVIRONMENT)
def test_wrong_in_the_environment(variable: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={variable: value})
    assert len(caught.value.problems) == 1, caught.value
    assert caught.value.problems[0].startswith(f"{variable}: ")
    assert said in caught.value.problems[0]


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "tcc.toml"
    file.write_text('lisen = 1\ndrain_timeout = -1\n[retry]\nbackoff_max = "x"\n', "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file, {"TCC_LOG_LEVEL": "loud", "TCC_COLOUR": "red"}, {"listen": "nowhere"})
    said = "\n".join(sorted(caught.value.problems))
    for part in ("lisen", "drain_timeout", "retry.backoff_max", "TCC_LOG_LEVEL", "TCC_COLOUR", "command line: listen"):
        assert part in said
    assert len(caught.value.problems) == 6


def test_a_syntax_error_names_the_file_and_the_line(tmp_path: Path) -> None:
    file = tmp_path / "tcc.toml"
    file.write_text('listen = "h:1"\nlog = memory:\n', "utf-8")
    with pytest.raises(ConfigError, match=r"tcc\.toml: not TOML: .*line 2"):
        load(file)


def test_a_missing_an_unreadable_and_an_ill_encoded_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file: give the path of a TOML file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'log = "\xe4"')
    with pytest.raises(ConfigError, match=r"latin\.toml: byte 7 is not UTF-8"):
        load(tmp_path / "latin.toml")
