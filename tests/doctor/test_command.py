"""`tcc doctor` as a command: what it prints, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.servers.process import free_port


def doctor(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tcc", "doctor", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def configuration(folder: Path, text: str = "") -> Path:
    path = folder / "tcc.toml"
    path.write_text(f'log = "sqlite:///{folder}/tcc.db"\n{text}')
    return path


def test_warnings_alone_exit_with_0(tmp_path: Path) -> None:
    ran = doctor(configuration(tmp_path))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "warning  participants: none is configured" in ran.stdout


def test_problems_exit_with_1_each_with_what_to_do(tmp_path: Path) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    ran = doctor(configuration(tmp_path, f'[participants.bank]\nendpoint = "{endpoint}"\n'))
    assert (ran.returncode, ran.stderr) == (1, "")
    assert f"problem  participant bank: nothing answers at {endpoint} (UNAVAILABLE)" in ran.stdout
    assert "         mend: start it, or check the endpoint in the configuration" in ran.stdout
    assert ran.stdout.splitlines()[-1].endswith("1 problem")


def test_json_is_one_finding_a_line(tmp_path: Path) -> None:
    text = f'courier = "rabbitmq"\n[rabbitmq]\nurl = "amqp://127.0.0.1:{free_port()}/"\n'
    ran = doctor(configuration(tmp_path, text), "--redis", f"redis://127.0.0.1:{free_port()}/0", "--json")
    assert (ran.returncode, ran.stderr) == (1, "")
    findings = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {"subject", "level", "found", "mend"} == set(findings[0])
    assert {one["subject"] for one in findings if one["level"] == "problem"} == {"rabbitmq", "redis"}


def test_a_log_in_memory_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text('log = "memory:"\n')
    assert "warning  log: it is in memory" in doctor(path).stdout


def test_a_configuration_that_is_wrong_exits_with_2(tmp_path: Path) -> None:
    ran = doctor(configuration(tmp_path, "lissten = 1\n"))
    assert ran.returncode == 2
    assert "did you mean listen" in ran.stderr
