"""The demo as a process: what it prints, what it leaves, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.demo._banks import OPENING
from services.demo._processes import CHECKOUT, DemoFailed, Server
from services.demo._transfers import BANKS, COUNT, transfers

DEMO = (sys.executable, "-m", "services.demo")


def environment(tmp_path: Path) -> dict[str, str]:
    """The demo makes its folder in `tmp_path`."""
    return {**os.environ, "TMPDIR": str(tmp_path)}


def test_the_demo_ends_with_0_and_its_proof_holds(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*DEMO, "--json"], cwd=CHECKOUT, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    document: dict[str, Any] = json.loads(ran.stdout)
    assert document["holds"] is True
    assert [check["claim"] for check in document["proof"] if not check["holds"]] == []
    facts = document["facts"]
    assert len(facts["told"]) == COUNT == 40
    assert sum(told["decision"] == "CANCEL" for told in facts["told"].values()) == 10
    assert facts["bank_kill"]["exit_code"] == facts["manager_kill"]["exit_code"] == -signal.SIGKILL
    assert document["timeline"]["gid"] == facts["bank_kill"]["gid"]
    assert document["timeline"]["state"] == "STATE_CONFIRMED"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_all_that_it_started_and_names_the_folder_with_the_logs(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        DEMO, cwd=CHECKOUT, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        addresses = []
        for line in process.stdout:
            if " serves at " in line:
                addresses.append(line.split()[-1])
            if "SIGKILL to the manager" in line:
                process.send_signal(number)
                break
        _, told = process.communicate(timeout=30)
    [folder] = tmp_path.iterdir()
    assert process.returncode == code
    assert told.startswith("The demo failed: ")
    assert str(folder) in told
    assert len(addresses) == 3
    assert processes_with(str(folder)) == []


async def test_a_server_that_does_not_start_is_named_with_its_log(tmp_path: Path) -> None:
    server = Server("bank-a", ("services.accounts", "--no-such-option"), tmp_path)
    with pytest.raises(DemoFailed, match=rf"bank-a did not start; see {tmp_path}/bank-a\.log"):
        await server.start()
    await server.stop()
    assert "--no-such-option" in server.log.read_text()


async def test_a_paused_server_can_be_stopped(tmp_path: Path) -> None:
    arguments = ("services.accounts", "--database", str(tmp_path / "bank-a.db"))
    server = Server("bank-a", arguments, tmp_path)
    await server.start()
    server.pause()
    await server.stop()
    assert processes_with(str(tmp_path)) == []


def test_every_transfer_is_sure_to_end_as_it_is_meant_to_whatever_the_order() -> None:
    asked = transfers()
    assert len({transfer.gid for transfer in asked}) == COUNT
    endings = {(transfer.source, transfer.refused_with) for transfer in asked}
    assert endings == {(bank, code) for bank in BANKS for code in ("", "FAILED_PRECONDITION", "NOT_FOUND")}
    poor = {(t.source, t.payer) for t in asked if t.refused_with == "FAILED_PRECONDITION"}
    for bank, payer in {(t.source, t.payer) for t in asked}:
        amounts = [t.amount for t in asked if (t.source, t.payer) == (bank, payer)]
        if (bank, payer) in poor:
            assert min(amounts) > OPENING[payer]
        else:
            assert sum(amounts) <= OPENING[payer]
    assert not poor & {(t.target, t.payee) for t in asked}
    assert all((t.payee in OPENING) == (t.refused_with != "NOT_FOUND") for t in asked)


def processes_with(text: str) -> list[str]:
    """The command lines that hold a text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if text in line:
            found.append(line)
    return found
