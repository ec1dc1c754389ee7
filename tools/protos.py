"""Generates the committed stubs from protos/, or checks that they are what protos/ gives.

    python tools/protos.py write    generate, and remove stubs whose proto is gone
    python tools/protos.py check    exit 1, naming the files, where a commit forgot to

Runs on the virtual environment of the generator (see the Makefile), which has the oldest grpcio-tools that we support;
the plugins for typed stubs need a newer protobuf and run from the development environment, by their path.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "protos"
PACKAGES = ("tcc", "tcc_server", "services")
SHIPPED = Path("tcc/_protos")
"""A copy of protos/tcc inside the wheel, so that users' protoc finds options.proto."""


def generate(plugins: Path) -> dict[Path, bytes]:
    """Every generated file: its path from the root of the repository, and what it holds."""
    protos = sorted(SOURCE.rglob("*.proto"))
    files = {SHIPPED / proto.relative_to(SOURCE): proto.read_bytes() for proto in protos if _is_public(proto)}
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCE}", *_outputs(plugins, out), *map(str, protos)]
        if subprocess.run(command, check=False).returncode:
            sys.exit("protos: protoc failed, see above")
        for path in sorted(Path(out).rglob("*_pb2*")):
            if "_pb2_grpc" in path.name and b"Stub" not in path.read_bytes():
                continue  # a proto without services
            files[path.relative_to(out)] = path.read_bytes()
    return files


def _is_public(proto: Path) -> bool:
    return proto.relative_to(SOURCE).parts[0] == "tcc"


def _outputs(plugins: Path, out: str) -> list[str]:
    arguments = [
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
    ]
    for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"):
        plugin = plugins.resolve() / name
        if not plugin.exists():
            sys.exit(f"protos: no {plugin}: run 'make venv' first")
        arguments.append(f"--plugin={name}={plugin}")
    return arguments


def committed() -> dict[Path, bytes]:
    """Every generated file that is there."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*_pb2*.py*") if path.suffix != ".pyc"]
    paths += (ROOT / SHIPPED).rglob("*.proto")
    return {path.relative_to(ROOT): path.read_bytes() for path in paths}


def write(wanted: dict[Path, bytes], found: dict[Path, bytes]) -> None:
    """Make the committed files what is wanted; untouched where they are already."""
    changed = [path for path in wanted if wanted[path] != found.get(path)]
    gone = sorted(found.keys() - wanted.keys())
    for path in changed:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(wanted[path])
        print(f"written  {path}")
    for path in gone:
        (ROOT / path).unlink()
        print(f"removed  {path}")
    if not changed and not gone:
        print(f"protos: all {len(wanted)} generated files are up to date")


def check(wanted: dict[Path, bytes], found: dict[Path, bytes]) -> None:
    """Exit 1 and name the files where the committed ones are not what is wanted."""
    problems = [f"missing: {path}" for path in sorted(wanted.keys() - found.keys())]
    problems += [f"no proto gives it: {path}" for path in sorted(found.keys() - wanted.keys())]
    problems += [f"out of date: {path}" for path in sorted(wanted.keys() & found.keys()) if wanted[path] != found[path]]
    if problems:
        listed = "\n  ".join(problems)
        sys.exit(f"protos: the committed stubs are not what protos/ gives; run 'make protos' and commit\n  {listed}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Generate the committed stubs from protos/, or check them.")
    parser.add_argument("action", choices=("write", "check"))
    parser.add_argument("--plugins", type=Path, required=True, help="folder that holds protoc-gen-mypy")
    arguments = parser.parse_args()
    act = write if arguments.action == "write" else check
    act(generate(arguments.plugins), committed())


if __name__ == "__main__":
    main()
