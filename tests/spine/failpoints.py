"""Failpoints of the manager: between two durable steps the process kills itself, as a power cut would.

A failpoint is named `seam:n:when`: the n-th use of a seam, before or after the step itself.

    append:1:before    the begin row is about to be written
    append:2:after     the decision is written, and the manager does not know it yet
    call:2:after       the second Try was answered, and the answer is not taken in
    send:1:before      the first commands are about to leave
    outcome:1:before   the first outcome came, and is not taken in
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller.seam import Caller, TryCall, TryReply
from tcc_server.courier.seam import Courier, OutcomeSink
from tcc_server.engine.worker import Seams
from tcc_server.log.seam import Log, Row


class Failpoints:
    """Counts uses of the seams, and ends the process at the one that was named."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._uses: Counter[str] = Counter()

    def wrap(self, seams: Seams) -> Seams:
        """The seams with failpoints in them."""
        return replace(
            seams,
            log=_Log(seams.log, self),
            caller=_Caller(seams.caller, self),
            courier=_Courier(seams.courier, self),
        )

    def enter(self, seam: str) -> int:
        """A use of a seam begins; gives its number."""
        self._uses[seam] += 1
        self.passing(seam, self._uses[seam], "before")
        return self._uses[seam]

    def passing(self, seam: str, use: int, when: str) -> None:
        """Here the process ends, if it was told so."""
        if f"{seam}:{use}:{when}" == self._name:
            os.kill(os.getpid(), signal.SIGKILL)


class _Log:
    def __init__(self, within: Log, points: Failpoints) -> None:
        self._within, self._points = within, points
        self.open, self.close = within.open, within.close
        self.load, self.list, self.adopt = within.load, within.list, within.adopt
        self.lapsed, self.shared = within.lapsed, within.shared

    async def append(self, row: Row) -> None:
        use = self._points.enter("append")
        await self._within.append(row)
        self._points.passing("append", use, "after")


class _Caller:
    def __init__(self, within: Caller, points: Failpoints) -> None:
        self._within, self._points = within, points
        self._answers = 0

    async def call(self, call: TryCall) -> TryReply:
        self._points.enter("call")
        reply = await self._within.call(call)
        self._answers += 1
        self._points.passing("call", self._answers, "after")
        return reply


class _Courier:
    def __init__(self, within: Courier, points: Failpoints) -> None:
        self._within, self._points = within, points
        self.close = within.close

    async def start(self, sink: OutcomeSink) -> None:
        def taking(outcome: Outcome) -> None:
            use = self._points.enter("outcome")
            sink(outcome)
            self._points.passing("outcome", use, "after")

        await self._within.start(taking)

    def send(self, commands: Sequence[Command]) -> None:
        use = self._points.enter("send")
        self._within.send(commands)
        self._points.passing("send", use, "after")
