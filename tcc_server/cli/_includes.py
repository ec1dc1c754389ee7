"""Where proto files lie that a user's protos may import: ours, googleapis, and protobuf's own."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


def own_protos() -> Path:
    """The directory that holds tcc/v1/*.proto."""
    return package_folder("tcc") / "_protos"


def include_folders() -> Iterator[Path]:
    """All of them that are installed."""
    yield own_protos()
    if find_spec("google.rpc") is not None:
        yield package_folder("google.rpc").parent.parent
    if find_spec("grpc_tools") is not None:
        yield package_folder("grpc_tools") / "_proto"


def package_folder(name: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return Path(next(iter(spec.submodule_search_locations)))
