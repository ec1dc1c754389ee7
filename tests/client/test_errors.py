"""Every error survives a process pool and a task queue with all that it carries."""

from __future__ import annotations

import inspect
import pickle

import grpc
import grpc.aio
import pytest

import tcc
from tcc import errors

REFUSED = tcc.BranchRefused(
    "t-1",
    "debit",
    "bank-a",
    "/bank.Bank/TryDebit",
    grpc.StatusCode.NOT_FOUND,
    "no account a",
    grpc.aio.Metadata(("tcc-refused", "1"), ("more-bin", b"\x00")),
    marked=True,
)

ALL: list[tcc.TccError] = [
    tcc.TccError("text"),
    tcc.UsageError("text"),
    tcc.TransactionCancelled("t-1", (REFUSED,), "REFUSED"),
    tcc.TransactionMixed("t-1"),
    tcc.OutcomeUnknown("t-1", "no answer"),
    tcc.GidReused("t-1", "branch 0 differs"),
    tcc.ManagerUnavailable("text"),
    tcc.ManagerError(grpc.StatusCode.NOT_FOUND, "text", "REASON"),
    REFUSED,
    tcc.Refused("text", grpc.StatusCode.NOT_FOUND),
]


def carried(error: BaseException) -> dict[str, object]:
    """All that an error carries, in a form that compares by value."""
    return {
        name: [carried(item) for item in value] if isinstance(value, tuple) else value
        for name, value in vars(error).items()
    }


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_an_error_comes_out_of_pickle_as_it_went_in(error: tcc.TccError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert carried(again) == carried(error)


def test_none_is_forgotten_here() -> None:
    tree = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, tcc.TccError)}
    assert {type(error) for error in ALL} == tree


def test_every_error_is_public() -> None:
    tree = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == "tcc.errors"}
    assert tree <= set(tcc.__all__)


def test_a_refused_branch_is_an_rpc_error_that_says_who_refused_what() -> None:
    assert isinstance(REFUSED, grpc.aio.AioRpcError)
    assert str(REFUSED) == "bank-a refused /bank.Bank/TryDebit (step debit): NOT_FOUND: no account a"
