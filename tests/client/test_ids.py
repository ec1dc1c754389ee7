"""Ids that the SDK makes and checks."""

from __future__ import annotations

import pytest

from tcc.ids import new_gid, problem_with_id


def test_a_new_gid_is_an_id_that_no_command_line_takes_for_an_option() -> None:
    made = {new_gid() for _ in range(1000)}
    assert len(made) == 1000
    assert all(problem_with_id("gid", gid) is None and gid.isalnum() and len(gid) == 26 for gid in made)


@pytest.mark.parametrize(
    ("value", "says"), [("", "is empty"), ("x" * 65, "65 characters"), ("a b", "other than"), ("ä", "other than")]
)
def test_what_is_no_id_is_told_with_what_is_wrong(value: str, says: str) -> None:
    assert says in str(problem_with_id("gid", value))
