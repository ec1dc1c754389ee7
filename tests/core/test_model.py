"""Copies that are to be changed: of every field, and of nothing else."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tcc_server.core.model import Branch, Transaction


@pytest.mark.parametrize("kind", [Branch, Transaction])
def test_a_copy_has_each_field_in_its_place_and_can_be_changed_by_itself(
    kind: type[Branch] | type[Transaction],
) -> None:
    names = [field.name for field in fields(kind)]
    one = kind(*names)  # type: ignore[arg-type]  # each field's value is its name
    copy = one.copied()
    assert [getattr(copy, name) for name in names] == names
    for name in names:
        setattr(copy, name, "changed")
    assert [getattr(one, name) for name in names] == names
