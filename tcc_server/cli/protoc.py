"""`tcc protoc`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tcc_server.cli._exits import CommandError, Exit
from tcc_server.cli._includes import include_folders

_PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def protoc(
    files: Annotated[tuple[Path, ...], Parameter(name="FILES")],
    /,
    *,
    include: Annotated[list[Path] | None, Parameter(name=["-I", "--include"])] = None,
    out: Path = Path(),
) -> None:
    """Compile protos to Python modules with types, for mypy --strict.

    Parameters
    ----------
    files
        The proto files.
    include
        Directory that imports are relative to; may be given several times. Default: the current directory.
    out
        Directory that the generated files go to.
    """
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise CommandError(f"no such file: {', '.join(missing)}", Exit.USAGE)
    plugins = [_plugin(name) for name in _PLUGINS]
    if find_spec("grpc_tools") is None:
        raise _not_installed("grpcio-tools")
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "grpc_tools.protoc", *plugins]
    command += [f"-I{folder}" for folder in [*(include or [Path()]), *include_folders()]]
    command += [f"--python_out={out}", f"--grpc_python_out={out}"]
    command += [f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}"]
    if subprocess.run([*command, *map(str, files)], check=False).returncode:
        raise CommandError("protoc failed, see above")


def _plugin(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise _not_installed("mypy-protobuf")
    return f"--plugin={name}={found}"


def _not_installed(package: str) -> CommandError:
    return CommandError(f"{package} is not installed: pip install 'tcc-toolkit[types]'", Exit.USAGE)
