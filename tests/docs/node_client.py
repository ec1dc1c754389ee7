"""Runs the Node client of docs/other-languages.md for real: `make test-node`. It needs npm; `make test` does without.

A bank and a manager are started, the client transfers money, repeats itself, and is refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc.aio

from services.accounts.v1.accounts_pb2 import OpenAccountRequest
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from tests.demo.test_readme import ROOT, Project
from tests.docs.test_other_languages import code

_CASES = (
    (("g-1", "5"), 0, "STATE_CONFIRMED\n"),
    (("g-1", "5"), 0, "STATE_CONFIRMED\n"),
    (("g-1", "6"), 1, "ALREADY_EXISTS: "),
    (("g-2", "5000"), 1, "ABORTED: "),
)


def main() -> int:
    """The exit code: 0 where all cases went as they should."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("test-node: needs node and npm (Debian: apt-get install nodejs npm)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="tcc-node-") as folder:
        return _run(Project(Path(folder)))


def _run(project: Project) -> int:
    project.write("client.js", code("js", "const grpc"))
    packages = ["@grpc/grpc-js@1", "@grpc/proto-loader@0"]
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *packages], cwd=project.folder, check=True)
    bank = ("-m", "services.accounts", "--listen", "127.0.0.1:0", "--database", "bank.db", "--name", "bank")
    with project.running(*bank) as line:
        found = re.search(r":(\d+)$", line)
        assert found, line
        asyncio.run(_open(f"127.0.0.1:{found[1]}"))
        serving = ("-m", "tcc", "dev", "--participant", f"127.0.0.1:{found[1]}", "--listen", "127.0.0.1:0", "--json")
        with project.running(*serving) as ready:
            address = str(json.loads(ready)["listen"])
            return sum(not _case(project.folder, address, *case) for case in _CASES)


def _case(folder: Path, address: str, arguments: tuple[str, ...], exit_code: int, said: str) -> bool:
    ran = subprocess.run(
        ["node", "client.js", address, *arguments],
        cwd=folder,
        env={**os.environ, "PROTOS": str(ROOT / "protos")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    well = ran.returncode == exit_code and ran.stdout.startswith(said)
    print(f"{'ok' if well else 'FAILED'}: client.js {' '.join(arguments)} -> {ran.stdout.strip()} {ran.stderr.strip()}")
    return well


async def _open(endpoint: str) -> None:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        bank = AccountsStub(channel)
        for account in ("a", "b"):
            await bank.OpenAccount(OpenAccountRequest(account=account, available=100))


if __name__ == "__main__":
    sys.exit(main())
