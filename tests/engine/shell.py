"""An engine between fakes that do nothing until a test says so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from tcc.batching import Answered
from tcc.v1 import transaction_pb2
from tcc.v1.participant_pb2 import Command, Outcome
from tcc_server.caller.seam import TryCall, TryReply
from tcc_server.core.model import Ask, Key, Methods, State, Status, Transaction
from tcc_server.core.policy import Policy
from tcc_server.courier.seam import OutcomeSink
from tcc_server.engine.engine import Bounds, Engine
from tcc_server.engine.worker import Seams
from tcc_server.log.codec import decode
from tcc_server.log.memory import MemoryLog, MemoryStore
from tcc_server.log.seam import Log, Row
from tests.faults import FaultyLog
from tests.simulation.loop import SeededLoop, run
from tests.simulation.world import LoopClock, SeededIds, SeededRng

KEY = Key("default", "t-1")
RESERVED = TryReply(Status(), b"reply")
REFUSED = TryReply(Status(9, "no money"), marked=True)


class Participants:
    """The Caller: each Try waits until it is answered.

    Attributes:
        calls: every attempt, in order.
        cancelled: attempts that were given up while they waited, by step.
    """

    def __init__(self) -> None:
        self.calls: list[TryCall] = []
        self.cancelled: list[str] = []
        self.always: TryReply | None = None
        self._waiting: dict[str, asyncio.Future[TryReply]] = {}

    async def call(self, call: TryCall) -> TryReply:
        """Wait for the answer."""
        self.calls.append(call)
        if self.always is not None:
            return self.always
        future: asyncio.Future[TryReply] = asyncio.get_running_loop().create_future()
        self._waiting[call.ask.step if call.ask.step not in self._waiting else f"{call.key.gid}/{call.ask.step}"] = (
            future
        )
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled.append(call.ask.step)
            raise

    def answer_all(self, reply: TryReply = RESERVED) -> None:
        """Answer every attempt that waits."""
        waiting, self._waiting = list(self._waiting.values()), {}
        for future in waiting:
            future.set_result(reply)

    def answer(self, step: str, reply: TryReply = RESERVED) -> None:
        """Answer the attempt that waits."""
        self._waiting.pop(step).set_result(reply)

    @property
    def steps(self) -> list[str]:
        return [call.ask.step for call in self.calls]


class Courier:
    """Keeps what it is given.

    Attributes:
        sent: the commands, in order; a test may clear it.
        all: every command there ever was.
        lists: how many each send had.
        answers: whether each command is answered DONE at once.
    """

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.all: list[Command] = []
        self.lists: list[int] = []
        self.answers = False
        self._sink: OutcomeSink | None = None

    async def start(self, sink: OutcomeSink) -> None:
        """Keep the sink."""
        self._sink = sink

    def send(self, commands: Sequence[Command]) -> None:
        """Keep the commands."""
        self.sent.extend(commands)
        self.all.extend(commands)
        self.lists.append(len(commands))
        if self.answers:
            for command in commands:
                asyncio.get_running_loop().call_soon(self.outcome, command)

    async def close(self) -> None:
        """Nothing to do."""

    def outcome(
        self, command: Command, kind: transaction_pb2.OutcomeKind.ValueType = transaction_pb2.OUTCOME_KIND_DONE
    ) -> None:
        """Bring an outcome of a command."""
        assert self._sink is not None
        self._sink(
            Outcome(
                namespace=command.namespace,
                gid=command.gid,
                branch=command.branch,
                phase=command.phase,
                attempt=command.attempt,
                kind=kind,
            )
        )

    @property
    def steps(self) -> list[str]:
        return [command.branch for command in self.sent]


class WritingLog(FaultyLog):
    """The same for an engine that does without a future for each append, as on disk."""

    def __init__(self, within: Log) -> None:
        super().__init__(within)
        self._under_way: set[asyncio.Future[None]] = set()

    def write(self, row: Row, verdict: Answered[None]) -> None:
        """Append the row, and tell of it."""
        self._under_way.add(append := asyncio.ensure_future(self.append(row)))
        append.add_done_callback(partial(self._tell, verdict))

    def _tell(self, verdict: Answered[None], append: asyncio.Future[None]) -> None:
        self._under_way.discard(append)
        if append.cancelled() or verdict.done():
            return
        error = append.exception()
        if isinstance(error, Exception):
            verdict.set_exception(error)
        else:
            verdict.set_result(None)


class Shell:
    """An engine and its fakes. Its log tells of appends in one of the two ways, by the loop's seed."""

    def __init__(self, store: MemoryStore | None = None, replica: str = "r1", **bounds: int) -> None:
        self.store = store or MemoryStore()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SeededLoop)
        kind = loop.random.choice((FaultyLog, WritingLog))
        self.log = kind(MemoryLog(self.store, replica=replica))
        self.participants = Participants()
        self.courier = Courier()
        rng = random.Random(replica)  # noqa: S311  chance is the point
        seams = Seams(self.log, self.participants, self.courier, LoopClock(), SeededIds(rng), SeededRng(rng))
        self.engine = Engine(seams, replica=replica, policy=Policy(), bounds=Bounds(**bounds))

    async def start(self) -> Shell:
        """Open and adopt."""
        await self.log.open()
        await self.engine.start()
        return self

    def execute(self, *asks: Ask, key: Key = KEY, timeout: float = 30.0) -> asyncio.Task[Transaction]:
        """An Execute under way."""
        return asyncio.create_task(self.engine.execute(key, "", asks, timeout, ("", "")))

    @property
    def stored(self) -> Transaction:
        """What the log says of the transaction."""
        return decode(self.store.rows[KEY], LoopClock().now())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let things happen until the condition holds; virtual time does not pass."""
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError("it did not happen")

    async def until_time(self, when: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(when - asyncio.get_running_loop().time())

    def commands_of(self, gid: str) -> list[Command]:
        """The commands that were ever sent for a transaction."""
        return [command for command in self.courier.all if command.gid == gid]

    async def quiet(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(200):
            await asyncio.sleep(0)


METHODS = Methods("/p.S/Try", "/p.S/Confirm", "/p.S/Cancel")


def ask(step: str, participant: str = "bank", request: bytes = b"request", timeout: float | None = None) -> Ask:
    """A branch."""
    return Ask(step, participant, METHODS, request, request, timeout)


def scenario(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that runs on virtual time, in several orders of what is ready."""

    def runs() -> None:
        for seed in range(8):
            run(seed, test())

    runs.__name__ = test.__name__
    runs.__doc__ = test.__doc__
    return runs


async def decided(task: Awaitable[Transaction]) -> State:
    """The state that a call told."""
    return (await task).state
