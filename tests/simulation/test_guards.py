"""Each guard removed in turn: the checker must see the bug, or it sees nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tcc.fence import MemoryFence
from tcc_server.core import decide, rules
from tcc_server.core.messages import Answer, CancelAsked, OutcomeArrived, Settled, Write
from tcc_server.core.model import CancelReason, Decision, Key, Reservation, Settlement
from tcc_server.engine import worker
from tcc_server.log.memory import MemoryLog
from tcc_server.log.seam import LogUnknown
from tests.simulation.checker import violations
from tests.simulation.test_simulation import world_of

Break = Callable[[pytest.MonkeyPatch], None]


def cancel_skips_what_is_unknown(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(rules.OWED, (Decision.CANCEL, Reservation.UNKNOWN), Settlement.NOTHING_OWED)


def cancel_skips_what_is_unanswered(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(rules.OWED, (Decision.CANCEL, Reservation.PENDING), Settlement.NOTHING_OWED)


def confirm_goes_over_what_is_unknown(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(rules.OWED, (Decision.CONFIRM, Reservation.UNKNOWN), Settlement.OPEN)


def effects_before_the_write(patch: pytest.MonkeyPatch) -> None:
    write = worker.Worker._write

    def eager(self: worker.Worker, live: Any, answer: Answer) -> None:
        before, live.tx = live.tx, answer.after
        self._perform(live, answer.effects, answer.at)
        live.tx = before
        write(self, live, answer)

    patch.setattr(worker.Worker, "_write", eager)


def an_unknown_append_counts_as_done(patch: pytest.MonkeyPatch) -> None:
    async def hopeful(self: worker.Worker, live: Any, answer: Answer, row: Any, unknown: LogUnknown) -> None:
        self._verdict(live, answer, row, None)

    patch.setattr(worker.Worker, "_settle", hopeful)


def a_command_is_sent_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decide._Turn, "_command_timer", lambda self: None)


def nothing_is_adopted(patch: pytest.MonkeyPatch) -> None:
    async def none(self: MemoryLog, limit: int) -> list[Any]:
        return []

    patch.setattr(MemoryLog, "adopt", none)


def a_decision_may_be_taken_again(patch: pytest.MonkeyPatch) -> None:
    def again(turn: Any, signal: CancelAsked) -> None:
        if not turn.tx.state.is_final:
            turn._decide(Decision.CANCEL, CancelReason.CLIENT, signal.reason)

    patch.setitem(decide._ANSWERS, CancelAsked, again)


def the_fence_forgets(patch: pytest.MonkeyPatch) -> None:
    visit = MemoryFence.visit

    async def forgetful(self: Any, visited: Any, body: Any) -> Any:
        verdict = await visit(self, visited, body)
        self._rows.clear()
        return verdict

    patch.setattr(MemoryFence, "visit", forgetful)


def an_outcome_of_any_phase_counts(patch: pytest.MonkeyPatch) -> None:
    def careless(turn: Any, signal: OutcomeArrived) -> None:
        position = turn.tx.find(signal.step)
        if turn.tx.state in rules.DECISION_OF and position is not None:
            turn.record(Settled(position, Settlement.DONE, signal.kind, "", turn.at.wall), Write.PROGRESS)
            turn._finish_if_settled()

    patch.setitem(decide._ANSWERS, OutcomeArrived, careless)


def the_same_gid_begins_again(patch: pytest.MonkeyPatch) -> None:
    append = MemoryLog.append

    async def overwrite(self: MemoryLog, row: Any) -> None:
        if row.version == 1:
            self.store.rows.pop(Key(row.key.namespace, row.key.gid), None)
        await append(self, row)

    patch.setattr(MemoryLog, "append", overwrite)


@pytest.mark.parametrize(
    "remove",
    [
        cancel_skips_what_is_unknown,
        cancel_skips_what_is_unanswered,
        confirm_goes_over_what_is_unknown,
        effects_before_the_write,
        an_unknown_append_counts_as_done,
        a_command_is_sent_once,
        nothing_is_adopted,
        the_fence_forgets,
        a_decision_may_be_taken_again,
        an_outcome_of_any_phase_counts,
        the_same_gid_begins_again,
    ],
    ids=lambda remove: remove.__name__,
)
def test_a_removed_guard_is_seen(remove: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(monkeypatch)
    for seed in range(300):
        try:
            world, _ = world_of(seed)
        except Exception:  # the bug broke the run itself: seen as well
            return
        if violations(world):
            return
    pytest.fail("three hundred runs saw nothing")
