"""The configuration's sources, its order of precedence, and what it is as an object."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tcc_server.config import Config, Participant, hide_secrets, keys
from tcc_server.config_load import ConfigError, load


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "tcc.toml"
    file.write_text(text, "utf-8")
    return file


def test_without_any_source_the_defaults_hold() -> None:
    config = load()
    assert config == Config()
    assert (config.listen, config.log, dict(config.participants)) == ("127.0.0.1:7070", "sqlite:///tcc.db", {})
    assert (config.limits.branches, config.limits.request_bytes, config.limits.transaction_bytes) == (64, 2**18, 2**20)
    assert (config.limits.default_timeout, config.limits.max_timeout) == (30, 3600)


def test_the_file_gives_tables_and_participants_by_their_exact_names(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        log = "memory:"
        [retry]
        backoff_max = 3
        [participants."services.accounts.v1.Accounts"]
        endpoint = "bank:50061"
        """,
    )
    config = load(file)
    assert config.log == "memory:"
    assert config.retry.backoff_max == 3
    assert config.retry.backoff_first == 0.1
    assert dict(config.participants) == {"services.accounts.v1.Accounts": Participant(endpoint="bank:50061")}


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(tmp_path: Path) -> None:
    file = written(tmp_path, 'listen = "h:1"\nlog = "memory:"\ndrain_timeout = 1')
    environ = {"TCC_LISTEN": "h:2", "TCC_DRAIN_TIMEOUT": "2", "HOME": "/nowhere"}
    config = load(file, environ, {"listen": "h:3"})
    assert (config.listen, config.drain_timeout, config.log) == ("h:3", 2, "memory:")


def test_the_environment_sets_nested_keys_truth_values_and_participants() -> None:
    config = load(
        environ={
            "TCC_RETRY__BACKOFF_MAX": "2.5",
            "TCC_LIMITS__BRANCHES": "8",
            "TCC_REFLECTION": "True",
            "TCC_LOG_LEVEL": "debug",
            "TCC_PARTICIPANTS": '{"Bank.A": {"endpoint": "[::1]:50061"}}',
        }
    )
    assert (config.retry.backoff_max, config.limits.branches) == (2.5, 8)
    assert (config.reflection, config.log_level) == (True, "debug")
    assert config.participants["Bank.A"].endpoint == "[::1]:50061"


def test_what_kubernetes_and_our_own_client_commands_put_into_the_environment_is_left_alone() -> None:
    environ = {
        "TCC_PORT": "tcp://10.0.0.1:7070",
        "TCC_SERVICE_HOST": "10.0.0.1",
        "TCC_SERVICE_PORT_GRPC": "7070",
        "TCC_MANAGER_PORT_7070_TCP_ADDR": "10.0.0.1",
        "TCC_MANAGER": "127.0.0.1:7070",
    }
    assert load(environ=environ) == Config()


def test_nothing_of_it_can_be_changed() -> None:
    config = load(overrides={"participants": {"bank": {"endpoint": "h:1"}}})
    with pytest.raises(ValidationError):
        config.listen = "h:2"
    with pytest.raises(TypeError):
        config.participants["other"] = Participant(endpoint="h:2")  # type: ignore[index]  # the point of the test


def test_it_prints_as_the_toml_that_would_give_it(tmp_path: Path) -> None:
    config = load(
        overrides={"participants": {"a.B": {"endpoint": "h:1"}}, "log": 'sqlite:///a "b".db', "reflection": True}
    )
    assert load(written(tmp_path, str(config))) == config


def test_secrets_are_hidden_wherever_it_prints() -> None:
    assert hide_secrets("postgresql://me:geheim@h/d") == "postgresql://me:***@h/d"
    config = Config.model_construct(log="postgresql://me:geheim@h/d")
    assert "geheim" not in str(config) + repr(config)
    with pytest.raises(ConfigError) as caught:
        load(overrides={"log": "mysql://me:geheim@h/d"})
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("log", "path"),
    [("sqlite:///tcc.db", Path("tcc.db")), ("sqlite:////var/tcc.db", Path("/var/tcc.db")), ("memory:", None)],
)
def test_the_logs_file(log: str, path: Path | None) -> None:
    assert load(overrides={"log": log}).sqlite_path == path


def test_every_key_says_what_it_is_for_and_every_number_its_unit() -> None:
    found = {key.name: key for key in keys()}
    assert {"listen", "participants.NAME.endpoint", "limits.branches", "retry.record_after"} <= found.keys()
    for key in found.values():
        assert key.description.endswith("."), key.name
        if isinstance(key.default, float):
            assert key.unit == ("share" if key.name == "tracing.sample" else "seconds"), key.name
