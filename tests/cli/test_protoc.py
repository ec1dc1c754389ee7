"""`tcc protos`, `tcc protoc` and `tcc fence-ddl`: what a service's author needs at hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

PROTO = """\
syntax = "proto3";
package shop.v1;
import "google/protobuf/empty.proto";
import "google/rpc/status.proto";
import "tcc/v1/options.proto";
service Stock {
  rpc TryTake(TakeRequest) returns (TakeReply) {
    option (tcc.v1.action) = { confirm: "ConfirmTake" cancel: "CancelTake" };
  }
  rpc ConfirmTake(TakeRequest) returns (google.protobuf.Empty);
  rpc CancelTake(TakeRequest) returns (google.protobuf.Empty);
}
message TakeRequest { string item = 1; }
message TakeReply { google.rpc.Status status = 1; }
"""


@pytest.fixture
def proto(tmp_path: Path) -> Path:
    file = tmp_path / "protos" / "shop" / "v1" / "stock.proto"
    file.parent.mkdir(parents=True)
    file.write_text(PROTO)
    return file


def test_protos_prints_where_the_option_lies(run: Run) -> None:
    ran = run("protos")
    assert (Path(ran.out.strip()) / "tcc" / "v1" / "options.proto").is_file()
    assert json.loads(run("protos", "--json").out) == {"include": ran.out.strip()}


def test_protoc_finds_our_protos_googles_and_protobufs_and_writes_typed_stubs(
    run: Run, proto: Path, tmp_path: Path
) -> None:
    out = tmp_path / "src" / "generated"
    assert run("protoc", "-I", str(tmp_path / "protos"), "--out", str(out), str(proto)) == (0, "", "")
    assert sorted(path.name for path in (out / "shop" / "v1").iterdir()) == [
        "stock_pb2.py",
        "stock_pb2.pyi",
        "stock_pb2_grpc.py",
        "stock_pb2_grpc.pyi",
    ]
    assert "from tcc.v1 import options_pb2" in (out / "shop" / "v1" / "stock_pb2.py").read_text()


def test_protoc_uses_the_current_directory_by_default(
    run: Run, proto: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "protos")
    assert run("protoc", "shop/v1/stock.proto").code == 0
    assert proto.with_name("stock_pb2_grpc.pyi").is_file()


def test_what_protoc_finds_wrong_exits_with_1(run: Run, proto: Path, tmp_path: Path) -> None:
    proto.write_text(PROTO.replace("string item", "strin item"))
    assert run("protoc", "-I", str(tmp_path / "protos"), "--out", str(tmp_path), str(proto)).code == 1


def test_a_missing_plugin_is_named_with_what_to_install(
    run: Run, proto: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = run("protoc", str(proto))
    assert ran == (2, "", "tcc: mypy-protobuf is not installed: pip install 'tcc-toolkit[types]'\n")


def test_a_missing_compiler_is_named_with_what_to_install(
    run: Run, proto: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcc_server.cli.protoc.find_spec", lambda name: None)
    ran = run("protoc", str(proto))
    assert ran == (2, "", "tcc: grpcio-tools is not installed: pip install 'tcc-toolkit[types]'\n")


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_fence_ddl_prints_the_fences_table(run: Run, dialect: str) -> None:
    ran = run("fence-ddl", "--dialect", dialect)
    assert ran.code == 0
    assert "CREATE TABLE" in ran.out
    assert ran.out.endswith(";\n")
    found = json.loads(run("fence-ddl", "--dialect", dialect, "--json").out)
    assert found["dialect"] == dialect
    assert f"{found['ddl']};\n" == ran.out
