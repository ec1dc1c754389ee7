"""Between a transaction and its row: nothing is lost, and a wall clock that was set back makes nothing last longer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tcc_server.core.messages import Answer, EnlistAsked, Write
from tcc_server.core.model import Moment, OutcomeKind, Transaction
from tcc_server.log.codec import decode, encode
from tcc_server.log.seam import Row
from tests.core.bench import WALL, Bench, ask

AT = Moment(100.0, WALL + 100.0)


def stored(tx: Transaction, at: Moment = AT) -> Transaction:
    """The transaction as its row gives it back."""
    return decode(row_of(tx), at)


def row_of(tx: Transaction) -> Row:
    """The transaction's whole row."""
    return encode(Answer(tx, (), (), Write.BODY, AT, answered=1, wake=None), write_id=bytes(16))


def timeless(tx: Transaction) -> Transaction:
    """Without what only the memory knows: what is in flight, and when it is due."""
    branches = tuple(
        replace(b, try_in_flight=0, try_due=None, due=None, waiting=False, unanswered=0) for b in tx.branches
    )
    return replace(tx, version=0, branches=branches, confirm_wanted=False, unrecorded=False)


def test_a_transaction_comes_back_as_it_was() -> None:
    bench = Bench(ask("a", try_timeout=3.0), "b", "c")
    bench.answer_try("a", expires_in=50.0)
    bench.answer_try("b", "FAILED_PRECONDITION", marked=True)
    bench.outcome("a", OutcomeKind.NO_TRY)
    bench.outcome("c")
    assert timeless(stored(bench.tx)) == timeless(bench.tx)


def test_a_try_that_was_given_up_comes_back_so() -> None:
    bench = Bench(interactive=True)
    bench.signal(EnlistAsked(ask("a")))
    bench.answer_try("a", "RESOURCE_EXHAUSTED", retry_after=60.0)
    assert stored(bench.tx).branches[0].given_up


@pytest.mark.parametrize(("passed", "left"), [(10.0, 20.0), (0.0, 30.0), (40.0, -10.0), (-86_400.0, 30.0)])
def test_what_is_left_of_a_deadline_is_never_more_than_there_was(passed: float, left: float) -> None:
    tx = Bench("a", timeout=30.0).tx
    found = stored(tx, Moment(7.0, WALL + 100.0 + passed))
    assert found.deadline - 7.0 == pytest.approx(left)
    assert found.branches[0].try_deadline - 7.0 == pytest.approx(left)


def test_what_is_left_of_a_reservation_is_never_more_than_there_was() -> None:
    bench = Bench("a", "b")
    bench.answer_try("a", expires_in=5.0)
    expires = stored(bench.tx, Moment(7.0, WALL - 86_400.0)).branches[0].expires
    assert expires is not None
    assert expires - 7.0 == pytest.approx(5.0)


def test_a_decision_is_never_in_the_readers_future() -> None:
    bench = Bench("a")
    bench.answer_try("a")
    assert stored(bench.tx, Moment(7.0, WALL - 86_400.0)).decided == 7.0


def test_a_row_without_its_body_tells_all_but_the_branches() -> None:
    tx = Bench("a", interactive=False, timeout=30.0).tx
    row = replace(row_of(tx), body=None)
    found = decode(row, AT)
    assert (found.deadline_at, found.interactive, found.state, found.branches) == (tx.deadline_at, False, tx.state, ())


def test_a_decided_row_without_its_body_can_be_read() -> None:
    bench = Bench("a")
    bench.answer_try("a")
    row = replace(row_of(bench.tx), body=None)
    assert decode(row, AT).decision is bench.tx.decision
