"""What `tcc tx show` prints of a transaction."""

from __future__ import annotations

from tcc.v1 import transaction_pb2 as v1
from tests.cli.conftest import Run
from tests.cli.fake_manager import FakeManager, at, methods, transaction

CONFIRMED = transaction(
    "t-1",
    v1.STATE_CONFIRMED,
    name="transfer",
    decision=v1.DECISION_CONFIRM,
    decided_at=at(4.2),
    finished_at=at(1011.8),
    branches=[
        v1.Branch(
            step="debit",
            participant="bank-a",
            methods=methods("Debit"),
            try_result=v1.TRY_RESULT_RESERVED,
            try_attempts=1,
            try_sent_at=at(0.4),
            try_answered_at=at(3.1),
            command=v1.PHASE_CONFIRM,
            command_attempts=1,
            command_sent_at=at(5),
            settled_at=at(8),
            outcome=v1.OUTCOME_KIND_DONE,
        ),
        v1.Branch(
            step="credit",
            participant="bank-b",
            methods=methods("Credit"),
            try_result=v1.TRY_RESULT_RESERVED,
            try_attempts=2,
            try_sent_at=at(0.5),
            try_answered_at=at(2.9),
            command=v1.PHASE_CONFIRM,
            command_attempts=3,
            command_failures=1,
            command_sent_at=at(5),
            settled_at=at(1011.8),
            outcome=v1.OUTCOME_KIND_DONE,
            last_error="UNAVAILABLE: gone",
        ),
    ],
    history=[
        v1.HistoryEntry(at=at(0), what="begun", who="r-1"),
        v1.HistoryEntry(at=at(900), what="adopted", who="r-2", reason="r-1 is gone"),
        v1.HistoryEntry(at=at(1011.8), what="finished", who="r-2"),
    ],
)


def shown(run: Run, manager: FakeManager, one: v1.Transaction) -> str:
    manager.transactions = {one.gid: one}
    ran = run("tx", "show", one.gid)
    assert (ran.code, ran.err) == (0, "")
    return "\n".join(line.rstrip() for line in ran.out.splitlines())


def test_a_confirmed_transaction_from_begin_to_end(run: Run, manager: FakeManager) -> None:
    assert (
        shown(run, manager, CONFIRMED)
        == """\
transfer t-1  CONFIRMED  2026-05-28 20:26:40.000 UTC
├── begun  0.0 ms  by Execute, deadline at 30,000 ms
├── Try
│   ├── debit  bank-a TryDebit  0.4 → 3.1 ms  reserved
│   └── credit  bank-b TryCredit  0.5 → 2.9 ms  reserved, attempt 2
├── decided Confirm  4.2 ms
├── Confirm
│   ├── debit  bank-a ConfirmDebit  5.0 → 8.0 ms  done
│   └── credit  bank-b ConfirmCredit  5.0 → 1,011.8 ms  done, attempt 3, 1 failed, last error: UNAVAILABLE: gone
├── History
│   └── adopted  900.0 ms  by r-2: r-1 is gone
└── finished  1,011.8 ms  CONFIRMED"""
    )


def test_a_refused_transaction_tells_who_refused_and_whether_it_was_marked(run: Run, manager: FakeManager) -> None:
    refused = v1.Branch(
        step="0",
        participant="bank-a",
        methods=methods("Debit"),
        try_result=v1.TRY_RESULT_REFUSED,
        marked=True,
        try_status=v1.CallStatus(code=9, message="insufficient funds"),
        try_attempts=1,
        try_sent_at=at(1),
        try_answered_at=at(2),
    )
    unmarked = v1.Branch()
    unmarked.CopyFrom(refused)
    unmarked.MergeFrom(v1.Branch(step="1", command=v1.PHASE_CANCEL, command_attempts=1, command_sent_at=at(3)))
    unmarked.marked = False
    text = shown(
        run,
        manager,
        transaction(
            "t-2",
            v1.STATE_CANCELLING,
            decision=v1.DECISION_CANCEL,
            cancel_reason=v1.CANCEL_REASON_REFUSED,
            decided_at=at(2.5),
            branches=[refused, unmarked],
        ),
    )
    first, second = (line for line in text.splitlines() if "TryDebit" in line)
    assert first.endswith("refused: FAILED_PRECONDITION: insufficient funds")
    assert second.endswith("insufficient funds (not marked: Cancel is sent)")
    assert "decided Cancel  2.5 ms  because a participant refused" in text
    assert "1  bank-a CancelDebit  3.0 ms  waiting" in text
    assert "finished" not in text


def test_a_broken_promise_and_attention_stand_out(run: Run, manager: FakeManager) -> None:
    broken = v1.Branch()
    broken.CopyFrom(CONFIRMED.branches[0])
    broken.outcome = v1.OUTCOME_KIND_CONTRADICTED
    mixed = v1.Transaction()
    mixed.CopyFrom(CONFIRMED)
    mixed.MergeFrom(v1.Transaction(state=v1.STATE_MIXED, attention=True, last_error="expired at bank-a"))
    mixed.branches[0].CopyFrom(broken)
    text = shown(run, manager, mixed)
    assert text.splitlines()[0].startswith("transfer t-1  MIXED")
    assert text.splitlines()[1].endswith("attention: expired at bank-a")
    assert "ConfirmDebit  5.0 → 8.0 ms  contradicted" in text


def test_what_is_still_open_is_said(run: Run, manager: FakeManager) -> None:
    branch = v1.Branch(step="0", participant="bank", methods=methods("Debit"), expires_at=at(60_000))
    text = shown(run, manager, transaction("t-3", branches=[branch], interactive=True))
    assert "begun  0.0 ms  interactive" in text
    assert "0  bank TryDebit  no answer yet, expires at 60,000 ms" in text
    assert "decided" not in text


def test_text_from_participants_cannot_steer_the_terminal(run: Run, manager: FakeManager) -> None:
    branch = v1.Branch(
        step="0",
        participant="bank",
        methods=methods("Debit"),
        try_result=v1.TRY_RESULT_REFUSED,
        marked=True,
        try_status=v1.CallStatus(code=9, message="\x1b[2Jgone\n[bold]"),
    )
    text = shown(run, manager, transaction("t-4", branches=[branch]))
    assert "\x1b" not in text
    assert r"refused: FAILED_PRECONDITION: \x1b[2Jgone\n[bold]" in text
