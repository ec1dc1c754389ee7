"""No change of the contract's protos breaks those who build on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from tests.project.frozen_contract import additions, breaks, facts, frozen, present

REVERT = "this breaks programs and stored data that build on the contract: take it back, and add beside it instead"


def test_nothing_that_was_promised_is_gone_or_different() -> None:
    broken = breaks(facts(frozen()), facts(present()))
    assert broken == [], REVERT


def test_what_was_added_is_frozen_as_well() -> None:
    added = additions(facts(frozen()), facts(present()))
    assert added == [], "these are new: look them over once more, then run 'make freeze-protos' and commit"


def changed(name: str, change: Callable[[FileDescriptorProto], None]) -> list[str]:
    """What the tests above would say after a change of one file."""
    files = FileDescriptorSet()
    files.CopyFrom(frozen())
    (file,) = (file for file in files.file if file.name == name)
    change(file)
    return breaks(facts(frozen()), facts(files))


def gone(elements: object, index: int) -> None:
    del elements[index]  # type: ignore[attr-defined]  # a repeated field of any type


TRANSACTION, MANAGER, OPTIONS = "tcc/v1/transaction.proto", "tcc/v1/manager.proto", "tcc/v1/options.proto"

BREAKS: dict[str, tuple[str, Callable[[FileDescriptorProto], None], str]] = {
    "a field is removed": (
        TRANSACTION,
        lambda file: gone(file.message_type[0].field, 0),
        "field tcc.v1.Methods.try_method is gone",
    ),
    "a field is renumbered": (
        TRANSACTION,
        lambda file: setattr(file.message_type[0].field[0], "number", 9),
        "field tcc.v1.Methods.try_method was: number 1, optional string; is: number 9, optional string",
    ),
    "a field is renamed": (
        TRANSACTION,
        lambda file: setattr(file.message_type[0].field[0], "name", "attempt"),
        "field tcc.v1.Methods.try_method is gone",
    ),
    "a field gets another type": (
        TRANSACTION,
        lambda file: setattr(file.message_type[0].field[0], "type", FieldDescriptorProto.TYPE_BYTES),
        "is: number 1, optional bytes",
    ),
    "a field becomes repeated": (
        TRANSACTION,
        lambda file: setattr(file.message_type[0].field[0], "label", FieldDescriptorProto.LABEL_REPEATED),
        "is: number 1, repeated string",
    ),
    "a message is removed": (TRANSACTION, lambda file: gone(file.message_type, 0), "message tcc.v1.Methods is gone"),
    "an enum's number changes": (
        TRANSACTION,
        lambda file: setattr(file.enum_type[0].value[1], "number", 90),
        "enum value tcc.v1.State.STATE_TRYING was: number 1; is: number 90",
    ),
    "an enum's value is removed": (
        TRANSACTION,
        lambda file: gone(file.enum_type[0].value, 1),
        "enum value tcc.v1.State.STATE_TRYING is gone",
    ),
    "a method is removed": (
        MANAGER,
        lambda file: gone(file.service[0].method, 0),
        "method tcc.v1.TransactionManager.Execute is gone",
    ),
    "a method answers with another message": (
        MANAGER,
        lambda file: setattr(file.service[0].method[0], "output_type", ".tcc.v1.GetResponse"),
        "is: .tcc.v1.ExecuteRequest -> .tcc.v1.GetResponse",
    ),
    "a method becomes a stream": (
        MANAGER,
        lambda file: setattr(file.service[0].method[0], "server_streaming", True),
        "-> stream .tcc.v1.ExecuteResponse",
    ),
    "the option's number changes": (
        OPTIONS,
        lambda file: setattr(file.extension[0], "number", 57221),
        "extension tcc.v1.action was: number 57220",
    ),
    "the package is renamed": (
        OPTIONS,
        lambda file: setattr(file, "package", "tcc.v2"),
        "file tcc/v1/options.proto was",
    ),
}


@pytest.mark.parametrize(("name", "change", "said"), BREAKS.values(), ids=BREAKS)
def test_each_kind_of_break_is_seen(name: str, change: Callable[[FileDescriptorProto], None], said: str) -> None:
    assert any(said in line for line in changed(name, change))


def test_an_addition_is_no_break_but_is_seen() -> None:
    files = FileDescriptorSet()
    files.CopyFrom(frozen())
    files.file[1].message_type[0].field.add(name="fourth", number=4, type=FieldDescriptorProto.TYPE_STRING, label=1)
    assert breaks(facts(frozen()), facts(files)) == []
    assert additions(facts(frozen()), facts(files)) == ["field tcc.v1.Methods.fourth"]
