"""What comes in one list goes through lock, fence and answer together, and each is answered as if it had come alone."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from sqlalchemy import Column, MetaData, String, Table, insert, select

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from tcc import wire
from tcc.fence import FenceUnavailable, Phase, SqlFence, _list
from tcc.fence._rows import Changes
from tcc.fence._sqlite import SqliteRows
from tcc.participant import ParticipantServer
from tcc.participant._call import from_item, said_in
from tcc.participant._together import TriesTogether
from tcc.tracing import TraceParent, Tracing
from tcc.v1 import participant_pb2, participant_pb2_grpc, transaction_pb2
from tests.participant.desk import Batchable, CountingFence, Desk
from tests.participant.scripted import METHODS, REPLY, Branch, make_server
from tests.participant.test_streams import Item, command, item, tried

EFFECTS = Table("effects", MetaData(), Column("name", String, primary_key=True))
CODES = {code.value[0]: code.name for code in grpc.StatusCode}


@pytest.fixture
def scripted() -> Batchable:
    return Batchable()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def sql(tmp_path: Path) -> AsyncIterator[CountingFence]:
    fence = CountingFence(f"sqlite+aiosqlite:///{tmp_path}/service.db")
    await fence.create_tables()
    async with fence.begin() as connection:
        await connection.run_sync(EFFECTS.metadata.create_all)
    yield fence
    await fence.close()


@pytest.fixture
async def server(scripted: Batchable, sql: CountingFence, desk: Desk) -> AsyncIterator[ParticipantServer]:
    server = make_server(scripted, sql, lock=desk, maximum_concurrent_rpcs=20, try_timeout=30.0)
    await server.start()
    yield server
    await server.stop(None)


@pytest.fixture
async def stub(server: ParticipantServer) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield participant_pb2_grpc.ParticipantStub(channel)


def items(number: int) -> list[Item]:
    return [item(count, Branch(f"g-{count}")) for count in range(number)]


async def settled(stub: Any, *commands: participant_pb2.Command) -> dict[str, participant_pb2.Outcome]:
    """The outcomes, by gid."""
    call = stub.CommandStream()
    await call.write(participant_pb2.CommandList(commands=commands))
    outcomes: dict[str, participant_pb2.Outcome] = {}
    while len(outcomes) < len(commands):
        outcomes |= {outcome.gid: outcome for outcome in (await call.read()).outcomes}
    call.cancel()
    return outcomes


def codes(answers: dict[int, Any]) -> list[str]:
    return [CODES[answers[number].status.code] for number in sorted(answers)]


def marked(answers: dict[int, Any]) -> list[int]:
    return [number for number in sorted(answers) if any(each.key == wire.REFUSED for each in answers[number].trailers)]


async def effects(fence: SqlFence) -> list[str]:
    async with fence.engine.connect() as connection:
        return sorted(await connection.scalars(select(EFFECTS.c.name)))


async def write_gid(fence: SqlFence) -> str:
    gid = tcc.branch().gid
    await fence.session.execute(insert(EFFECTS).values(name=gid))
    return gid


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  it says nothing by itself
            await asyncio.sleep(0.005)


async def test_a_list_is_one_word_to_the_lock_one_transaction_and_an_answer_each(
    stub: Any, scripted: Batchable, sql: CountingFence, desk: Desk
) -> None:
    async def attempt(request: object, context: object) -> pb.DebitReply:
        return pb.DebitReply(reservation_id=await write_gid(sql))

    scripted.scripts[Phase.TRY] = attempt
    answers = await tried(stub, *items(15))
    outcomes = await settled(stub, *[command(Branch(f"g-{count}")) for count in range(15)])

    assert [pb.DebitReply.FromString(answers[number].reply).reservation_id for number in range(15)] == [
        f"g-{number}" for number in range(15)
    ]
    assert {outcome.kind for outcome in outcomes.values()} == {transaction_pb2.OUTCOME_KIND_DONE}
    assert (desk.taken, sql.lists, desk.held) == ([15, 15], [15, 15], set())
    assert await effects(sql) == sorted(f"g-{number}" for number in range(15))


async def test_what_one_of_a_list_ends_with_is_its_own_affair(
    stub: Any, scripted: Batchable, sql: CountingFence, desk: Desk
) -> None:
    async def attempt(request: object, context: Any) -> pb.DebitReply:
        match await write_gid(sql):
            case "g-2":
                raise tcc.Refused("no money")
            case "g-4":
                await context.abort(grpc.StatusCode.NOT_FOUND, "no account")
            case "g-6":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            case "g-8":
                raise ValueError("bug")
            case "g-9":
                await asyncio.Event().wait()
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    asked = items(12)
    asked[9].timeout.CopyFrom(wire.seconds(0.1))
    answers = await tried(stub, *asked)

    ends = {number: code for number, code in enumerate(codes(answers)) if code != "OK"}
    assert ends == {
        2: "FAILED_PRECONDITION",
        4: "NOT_FOUND",
        6: "UNAVAILABLE",
        8: "INTERNAL",
        9: "DEADLINE_EXCEEDED",
    }
    assert marked(answers) == [2, 4]
    assert "ValueError: bug" in answers[8].status.message
    assert await effects(sql) == sorted(f"g-{number}" for number in range(12) if number not in ends)
    assert (sql.lists, desk.held) == ([12], set())


async def test_a_bug_that_stays_refuses_its_try_at_the_third_attempt_and_the_lock_is_not_in_its_own_way(
    stub: Any, scripted: Batchable, desk: Desk
) -> None:
    async def attempt(request: object, context: Any) -> pb.DebitReply:
        if tcc.branch().gid == "g-1":
            raise ValueError("bug")
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    asked = items(3)
    for entry in asked[1].metadata:
        if entry.key == wire.ATTEMPT:
            entry.value = b"3"
    answers = await tried(stub, *asked)
    assert codes(answers) == ["OK", "ABORTED", "OK"]
    assert marked(answers) == [1]
    assert not desk.held


async def test_one_whose_lock_is_held_elsewhere_is_busy_and_the_others_do_not_wait_for_it(
    stub: Any, scripted: Batchable, sql: CountingFence, desk: Desk
) -> None:
    desk.elsewhere["{default/g-1}:0"] = 7.0
    answers = await tried(stub, *items(3))
    outcomes = await settled(stub, *[command(Branch(f"g-{number}")) for number in range(3)])

    assert codes(answers) == ["OK", "UNAVAILABLE", "OK"]
    assert wire.retry_delay(answers[1].status.details) == 7.0
    assert outcomes["g-1"].kind == transaction_pb2.OUTCOME_KIND_BUSY
    assert (sql.lists, desk.held) == ([2, 2], set())


async def test_one_that_was_only_just_busy_is_asked_for_again(stub: Any, desk: Desk) -> None:
    desk.elsewhere["{default/g-1}:0"] = 7.0
    desk.answers_one.clear()
    call = stub.TryStream()
    await call.write(participant_pb2.TryStreamRequest(items=items(2)))
    assert [answer.id for answer in (await call.read()).items] == [0]
    desk.elsewhere.clear()
    desk.answers_one.set()
    (answer,) = (await call.read()).items
    assert (answer.id, answer.reply) == (1, REPLY.SerializeToString())
    assert desk.taken == [2, 1]
    call.cancel()


async def test_a_list_that_fails_is_made_again_one_by_one_each_under_its_lock(
    stub: Any, scripted: Batchable, sql: CountingFence, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = SqliteRows.commit
    held: list[int] = []

    async def fail_once(self: SqliteRows, changes: Changes) -> None:
        monkeypatch.setattr(SqliteRows, "commit", commit)
        raise FenceUnavailable("the commit's result is unknown")

    async def attempt(request: object, context: object) -> pb.DebitReply:
        held.append(len(desk.held))
        await write_gid(sql)
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    monkeypatch.setattr(SqliteRows, "commit", fail_once)
    assert codes(await tried(stub, *items(3))) == ["OK"] * 3
    assert sorted(held) == [1, 2, 3, 3, 3, 3]  # all of them at first; then each until its own end
    assert (sql.lists, scripted.runs[Phase.TRY], desk.held) == ([3], 6, set())
    assert await effects(sql) == ["g-0", "g-1", "g-2"]


async def test_what_befell_a_whole_list_is_said_of_each_without_the_lines_of_the_others(
    stub: Any, sql: CountingFence, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def down(listed: object) -> None:
        raise FenceUnavailable("the database is down")

    monkeypatch.setattr(sql, "visit_many", down)
    assert codes(await tried(stub, *items(20))) == ["UNAVAILABLE"] * 20
    tracebacks = [traceback.format_tb(record.exc_info[2]) for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 20
    assert all(len(lines) == len(tracebacks[0]) for lines in tracebacks)


async def test_a_slow_one_does_not_delay_what_its_list_holds_else(
    stub: Any, scripted: Batchable, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_list, "HANDLERS_SHARE", 0.05)
    go_on = asyncio.Event()

    async def attempt(request: object, context: object) -> pb.DebitReply:
        if tcc.branch().gid == "g-1":
            await go_on.wait()
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    call = stub.TryStream()
    await call.write(participant_pb2.TryStreamRequest(items=items(3)))
    assert [answer.id for answer in (await call.read()).items] == [0, 2]
    assert desk.held == {"{default/g-1}:0"}
    go_on.set()
    assert [answer.id for answer in (await call.read()).items] == [1]
    call.cancel()
    assert not desk.held


async def test_what_a_list_had_no_time_for_goes_with_the_next(
    stub: Any, sql: CountingFence, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_list, "STARTS_WITHIN", -1.0)
    assert codes(await tried(stub, *items(3))) == ["OK"] * 3
    assert (sql.lists, desk.held) == ([3, 2, 1], set())


async def test_the_same_branch_twice_in_a_list_runs_once(stub: Any, scripted: Batchable, desk: Desk) -> None:
    answers = await tried(stub, item(1, Branch("g-1")), item(2, Branch("g-1")), item(3, Branch("g-2")))
    assert codes(answers)[0::2] == ["OK", "OK"]
    assert codes(answers)[1] in ("OK", "UNAVAILABLE")
    assert scripted.runs[Phase.TRY] == 2


async def test_what_cannot_go_along_is_answered_beside_the_rest(
    stub: Any, scripted: Batchable, sql: CountingFence
) -> None:
    credit = transaction_pb2.Methods(
        try_method=METHODS.try_method.replace("Debit", "Credit"),
        confirm_method=METHODS.confirm_method.replace("Debit", "Credit"),
        cancel_method=METHODS.cancel_method.replace("Debit", "Credit"),
    )
    not_batchable, stranger, nameless = item(1, Branch("g-1")), item(2, Branch("g-2")), item(3, Branch("g-3"))
    not_batchable.methods.CopyFrom(credit)
    stranger.methods.try_method = "/no.Such/Method"
    del nameless.metadata[1]
    answers = await tried(stub, item(0, Branch("g-0")), not_batchable, stranger, nameless, item(4, Branch("g-4")))

    assert codes(answers) == ["OK", "OK", "UNIMPLEMENTED", "INVALID_ARGUMENT", "OK"]
    assert (sql.lists, scripted.runs[Phase.TRY]) == ([2], 2)


async def test_each_handler_has_its_own_context_and_its_own_trace(stub: Any, scripted: Batchable) -> None:
    own: ContextVar[str] = ContextVar("own", default="")
    seen: list[tuple[str, TraceParent]] = []
    traces = {f"g-{number}": f"00-{number + 1:032x}-{number + 1:016x}-00" for number in range(3)}

    async def attempt(request: object, context: object) -> pb.DebitReply:
        assert own.get() == ""
        own.set(tcc.branch().gid)
        await asyncio.sleep(0)
        seen.append((own.get(), TraceParent.current()))
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    await tried(
        stub,
        *[
            item(number, Branch(gid, extra=((wire.TRACEPARENT, parent),)))
            for number, (gid, parent) in enumerate(traces.items())
        ],
    )
    assert seen == [(gid, TraceParent(parent)) for gid, parent in traces.items()]


async def test_one_that_goes_on_alone_keeps_its_trace(
    stub: Any, scripted: Batchable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_list, "HANDLERS_SHARE", 0.02)
    parent = "00-" + "a1" * 16 + "-" + "b2" * 8 + "-00"
    seen: list[TraceParent] = []

    async def attempt(request: object, context: object) -> pb.DebitReply:
        seen.append(TraceParent.current())
        if len(seen) == 1:
            await asyncio.Event().wait()
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    extra = ((wire.TRACEPARENT, parent),)
    answers = await tried(stub, *[item(number, Branch(f"g-{number}", extra=extra)) for number in range(2)])
    assert codes(answers) == ["OK"] * 2
    assert seen == [TraceParent(parent)] * 3


@pytest.mark.parametrize("waits", ["for the lock", "in its handler", "alone"])
async def test_a_stream_that_is_cut_stops_what_it_brought_and_gives_its_locks_back(
    stub: Any,
    scripted: Batchable,
    sql: CountingFence,
    desk: Desk,
    server: ParticipantServer,
    waits: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_list, "HANDLERS_SHARE", 0.02 if waits == "alone" else 10.0)
    under_way = 0

    async def attempt(request: object, context: object) -> pb.DebitReply:
        nonlocal under_way
        await write_gid(sql)
        if tcc.branch().gid != "g-1":
            return REPLY
        under_way += 1
        try:
            await asyncio.Event().wait()
        finally:
            under_way -= 1
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    if waits == "for the lock":
        desk.answers.clear()
    call = stub.TryStream()
    asked = items(3)
    asked[1].timeout.CopyFrom(wire.seconds(60.0))
    await call.write(participant_pb2.TryStreamRequest(items=asked))
    await until(lambda: bool(desk.taken) and (waits == "for the lock" or under_way > 0))
    if waits == "alone":
        await until(lambda: desk.held == {"{default/g-1}:0"} and under_way > 0)
    call.cancel()
    await until(lambda: not desk.held and not under_way)
    async with asyncio.timeout(5):
        await server.stop(60)  # nothing counts as under way any more
    assert "g-1" not in await effects(sql)


async def test_calls_that_are_stopped_twice_give_their_locks_back_and_have_ended_when_that_is_said(
    server: ParticipantServer, scripted: Batchable, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_list, "HANDLERS_SHARE", 0.02)
    runs, stopping, rolled_back = 0, asyncio.Event(), asyncio.Event()
    told_to_stop: list[int] = []

    async def attempt(request: object, context: object) -> pb.DebitReply:
        nonlocal runs
        runs += 1
        try:
            await asyncio.Event().wait()
        finally:
            stopped = 0
            while runs == 2 and not rolled_back.is_set():  # alone
                stopping.set()
                try:
                    await rolled_back.wait()
                except asyncio.CancelledError:
                    stopped += 1
            told_to_stop.append(stopped)
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    shared = server.runtime.shares
    assert shared is not None
    told: list[object] = []
    together = TriesTogether[int](server.runtime, shared, told.extend)
    (asked,) = items(1)
    methods = (METHODS.try_method, METHODS.confirm_method, METHODS.cancel_method)
    assert together.add(from_item(asked, methods, said_in(asked), "here"), None, nullcontext(), 0)
    running = asyncio.create_task(together.run())
    await until(lambda: runs == 2)
    running.cancel()
    async with asyncio.timeout(5):
        await stopping.wait()
    running.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    early = running.done()
    rolled_back.set()
    await asyncio.wait((running,))
    assert not early
    assert running.cancelled()
    assert told_to_stop == [0, 1]
    assert not told
    assert not desk.held
    async with asyncio.timeout(5):
        server.runtime.stop_taking()
        await server.runtime.idle()


async def test_a_done_callback_that_ends_by_a_cancelled_future_keeps_no_answer_back(
    stub: Any, scripted: Batchable
) -> None:
    async def attempt(request: object, context: Any) -> pb.DebitReply:
        if tcc.branch().gid == "g-1":
            never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            never.cancel()
            context.add_done_callback(lambda _: never.result())
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    async with asyncio.timeout(5):
        assert codes(await tried(stub, *items(3))) == ["OK"] * 3


@pytest.mark.parametrize("says", ["a number", "a key of bytes", "half a character", "a word for a code", "no code"])
async def test_what_no_answer_can_carry_is_the_error_of_the_handler_that_says_it_and_of_no_other(
    stub: Any, scripted: Batchable, says: str
) -> None:
    async def attempt(request: object, context: Any) -> pb.DebitReply:
        if tcc.branch().gid == "g-1":
            match says:
                case "a number":
                    context.set_trailing_metadata((("left", 5),))
                case "a key of bytes":
                    context.set_trailing_metadata(((b"left", "5"),))
                case "half a character":
                    context.set_trailing_metadata((("left", "\ud800"),))
                case "a word for a code":
                    await context.abort("UNAVAILABLE")
                case "no code":
                    context.set_code(99)
        return REPLY

    scripted.scripts[Phase.TRY] = attempt
    answers = await tried(stub, *items(3))
    assert codes(answers) == ["OK", "INTERNAL", "OK"]
    assert "UsageError" in answers[1].status.message


async def test_a_server_that_stops_ends_what_it_has_and_takes_no_more_lists(
    stub: Any, scripted: Batchable, server: ParticipantServer, desk: Desk
) -> None:
    server.runtime.stop_taking()
    answers = await tried(stub, *items(3))
    assert codes(answers) == ["UNAVAILABLE"] * 3
    assert [wire.retry_delay(answer.status.details) for answer in answers.values()] == [1.0] * 3
    assert not scripted.runs[Phase.TRY]
    assert not desk.taken


async def test_a_list_beyond_the_room_of_its_stream_goes_as_far_as_there_is_room(stub: Any, sql: CountingFence) -> None:
    call = stub.TryStream()
    for turned_away in (3, 0):
        asked = items(20 + turned_away)
        await call.write(participant_pb2.TryStreamRequest(items=asked))
        answers: dict[int, Any] = {}
        while len(answers) < len(asked):
            answers |= {answer.id: answer for answer in (await call.read()).items}
        assert codes(answers) == ["OK"] * 20 + ["RESOURCE_EXHAUSTED"] * turned_away
    call.cancel()
    assert sql.lists == [20, 20]


async def test_a_lock_that_takes_no_lists_is_asked_for_each(scripted: Batchable, sql: CountingFence) -> None:
    class Single:
        def __init__(self) -> None:
            self.keys: list[str] = []

        async def acquire(self, key: str, ttl: float) -> Any:
            self.keys.append(key)
            return tcc.NoLock()

        async def close(self) -> None:
            """Nothing is open."""

    lock = Single()
    server = make_server(scripted, sql, lock=lock)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        answers = await tried(participant_pb2_grpc.ParticipantStub(channel), *items(3))
    await server.stop(None)
    assert codes(answers) == ["OK"] * 3
    assert (len(lock.keys), sql.lists) == (3, [3])


async def test_what_goes_wrong_here_is_said_of_each_that_it_befell(
    stub: Any, scripted: Batchable, sql: CountingFence, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(keys: Sequence[str], ttl: float) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(desk, "acquire_all", broken)
    answers = await tried(stub, *items(3))
    assert codes(answers) == ["INTERNAL"] * 3
    monkeypatch.undo()
    assert codes(await tried(stub, *items(20))) == ["OK"] * 20  # and there is room again


async def test_a_list_whose_lock_gives_up_by_itself_is_answered_and_leaves_room(
    stub: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gives_up(keys: Sequence[str], ttl: float) -> Any:
        raise asyncio.CancelledError

    monkeypatch.setattr(desk, "acquire_all", gives_up)
    async with asyncio.timeout(5):
        assert codes(await tried(stub, *items(20))) == ["INTERNAL"] * 20


async def test_one_that_cannot_even_be_looked_at_harms_no_other(
    stub: Any, sql: CountingFence, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing = Tracing.passing

    def stumbles(self: Tracing, parent: TraceParent) -> Any:
        if parent.parent == "bad":
            raise ValueError("a bug")
        return passing(self, parent)

    monkeypatch.setattr(Tracing, "passing", stumbles)
    bad = item(1, Branch("g-1", extra=((wire.TRACEPARENT, "bad"),)))
    assert codes(await tried(stub, item(0, Branch("g-0")), bad, item(2, Branch("g-2")))) == ["OK", "INTERNAL", "OK"]
