"""The frozen contract: the descriptors of protos/tcc/v1 as they were promised, and what may change about them.

Other languages, stored bytes and running systems build on them. Adding is allowed, and then frozen with `make
freeze-protos`; whatever is frozen must stay as it is. Names of fields and enum values count as well: JSON and generated
code have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

from tcc.v1 import manager_pb2, options_pb2, participant_pb2, transaction_pb2

FROZEN = Path(__file__).with_name("contract.binpb")
"""A serialised FileDescriptorSet."""

Facts = dict[str, str]
"""What is promised: the full name of each element, and all of it that other code depends on."""


def present() -> FileDescriptorSet:
    """The descriptors of the committed stubs."""
    files = FileDescriptorSet()
    for module in (options_pb2, transaction_pb2, participant_pb2, manager_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    return files


def frozen() -> FileDescriptorSet:
    """The descriptors that were promised."""
    return FileDescriptorSet.FromString(FROZEN.read_bytes())


def facts(files: FileDescriptorSet) -> Facts:
    """Everything in the descriptors that a change would break somebody by."""
    found: Facts = {}
    for file in files.file:
        found[f"file {file.name}"] = f"package {file.package}, syntax {file.syntax}"
        found.update(_of_file(file))
    return found


def breaks(before: Facts, after: Facts) -> list[str]:
    """What was promised and is gone or different, one line each."""
    lost = [f"{name} is gone (it was: {before[name]})" for name in before if name not in after]
    changed = [
        f"{name} was: {before[name]}; is: {after[name]}"
        for name in before
        if name in after and before[name] != after[name]
    ]
    return lost + changed


def additions(before: Facts, after: Facts) -> list[str]:
    """What is there and not yet promised."""
    return [name for name in after if name not in before]


def _of_file(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for extension in file.extension:
        yield f"extension {file.package}.{extension.name}", f"{_of_field(extension)} of {extension.extendee}"
    for message in file.message_type:
        yield from _of_message(message, file.package)
    for enum in file.enum_type:
        yield from _of_enum(enum, file.package)
    for service in file.service:
        yield from _of_service(service, file.package)


def _of_message(message: DescriptorProto, scope: str) -> Iterator[tuple[str, str]]:
    name = f"{scope}.{message.name}"
    yield f"message {name}", "a message"
    for field in message.field:
        oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        yield f"field {name}.{field.name}", _of_field(field) + (f" in oneof {oneof}" if oneof else "")
    for nested in message.nested_type:
        yield from _of_message(nested, name)
    for enum in message.enum_type:
        yield from _of_enum(enum, name)


def _of_field(field: FieldDescriptorProto) -> str:
    label = FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower()
    kind = field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"number {field.number}, {label} {kind}"


def _of_enum(enum: EnumDescriptorProto, scope: str) -> Iterator[tuple[str, str]]:
    for value in enum.value:
        yield f"enum value {scope}.{enum.name}.{value.name}", f"number {value.number}"


def _of_service(service: ServiceDescriptorProto, scope: str) -> Iterator[tuple[str, str]]:
    for method in service.method:
        sent = f"stream {method.input_type}" if method.client_streaming else method.input_type
        answered = f"stream {method.output_type}" if method.server_streaming else method.output_type
        yield f"method {scope}.{service.name}.{method.name}", f"{sent} -> {answered}"


def main() -> None:
    """Freeze the present contract, unless that would hide a break."""
    if FROZEN.exists():
        broken = breaks(facts(frozen()), facts(present()))
        if broken:
            listed = "\n  ".join(broken)
            raise SystemExit(f"freeze-protos: refused, this breaks what was promised:\n  {listed}")
    FROZEN.write_bytes(present().SerializeToString(deterministic=True))
    print(f"freeze-protos: {FROZEN.name} holds {len(facts(present()))} promises; commit it")


if __name__ == "__main__":
    main()
