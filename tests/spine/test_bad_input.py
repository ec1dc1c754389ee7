"""Bad input: for each case the part that answers, the error, and words that say what to do. Nothing is changed by it.

An existing transaction, confirmed, and one that is open stand by: both must be unharmed.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty

import tcc
from services.accounts.v1 import accounts_pb2, accounts_pb2_grpc
from tcc import wire
from tcc.v1 import manager_pb2 as pb
from tcc_server.cli import main
from tcc_server.config_load import ConfigError, load
from tcc_server.log.migrate import migrate
from tests.participant.scripted import Scripted, make_server
from tests.participant.test_server import describe_service, register
from tests.spine.bad_requests import Act, branch, call, execute, methods, try_call
from tests.spine.installation import OPENING, Installation, debit, transfer
from tests.spine.processes import ROOT

Code = grpc.StatusCode
LONG = "x" * 65
KIB = 1024


@dataclass(frozen=True)
class Bad:
    """One case.

    Attributes:
        answers: which part says no: client, manager, participant, config or cli.
        act: does it.
        says: words of the message.
        error: what the client's code gets.
        code: the status, where it comes by gRPC.
        reason: of the ErrorInfo.
    """

    answers: str
    act: Act
    says: str
    error: type[BaseException]
    code: grpc.StatusCode | None = None
    reason: str = ""


def usage(act: Act, says: str) -> Bad:
    return Bad("client", act, says, tcc.UsageError)


def manager(act: Act, says: str, reason: str, code: grpc.StatusCode = Code.INVALID_ARGUMENT) -> Bad:
    return Bad("manager", act, says, grpc.aio.AioRpcError, code, reason)


def participant(act: Act, says: str, code: grpc.StatusCode, reason: str) -> Bad:
    return Bad("participant", act, says, tcc.TransactionCancelled, code, reason)


def planned(*calls: Any, **options: Any) -> Act:
    """An execute by the SDK; the calls are made when the case runs."""

    async def act(installation: Installation) -> object:
        return await installation.manager.execute(*(make() for make in calls), **options)

    return act


def here(make: Any) -> Act:
    """Something that fails in the calling code."""

    async def act(installation: Installation) -> object:
        return make(installation)

    return act


async def awaited(installation: Installation) -> None:
    planned_call = debit("bank-a", 1)
    try:
        await planned_call
    finally:
        planned_call._handed_over = True  # the other mistake, of never executing it, is another case


async def executed_again(installation: Installation) -> None:
    calls = (debit("bank-a", OPENING * 9),)
    with pytest.raises(tcc.TransactionCancelled):
        await installation.manager.execute(*calls, gid="first")
    await installation.manager.execute(*calls, gid="second")


async def from_another_channel(installation: Installation) -> None:
    async with grpc.aio.insecure_channel(installation.bank_a.address) as channel:
        sent = accounts_pb2_grpc.AccountsStub(channel).GetAccount(accounts_pb2.GetAccountRequest(account="ann"))
        try:
            await installation.manager.execute(debit("bank-a", 1), sent)
        finally:
            await sent


async def never_executed(installation: Installation) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", tcc.NeverExecutedWarning)
        planned_call = debit("bank-a", 1)
        caught: list[BaseException] = []
        planned_call.__del__(_warn=lambda text, kind, **_: caught.append(kind(text)))
        planned_call._handed_over = True
        raise caught[0]


async def too_large_interactive(installation: Installation) -> None:
    async with installation.manager.transaction(gid="large") as tx:
        stub: Any = accounts_pb2_grpc.AccountsStub(tx.channel.participant("bank-a"))
        await stub.TryDebit(accounts_pb2.DebitRequest(account="a" * (9 * KIB * KIB), amount=1))


def past(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


def big(size: int) -> Any:
    return lambda: _stub_call("a" * size)


def _stub_call(account: str) -> Any:
    return debit("bank-a", 1, account=account)


IDS = {
    "an empty gid": usage(planned(lambda: debit("bank-a", 1), gid=""), "gid is empty: give 1 to 64"),
    "an over-long gid": usage(planned(lambda: debit("bank-a", 1), gid=LONG), "gid has 65 characters, the limit is 64"),
    "an ill-lettered gid": usage(planned(lambda: debit("bank-a", 1), gid="a/b"), "'a/b' has characters other than A-Z"),
    "an ill-lettered step": usage(
        planned(lambda: debit("bank-a", 1, metadata=(("tcc-step", "a b"),))), "step 'a b' has characters other than"
    ),
    "an over-long step": usage(
        planned(lambda: debit("bank-a", 1, metadata=(("tcc-step", LONG),))), "has 65 characters"
    ),
    "an ill-lettered participant": usage(planned(lambda: debit("bänk", 1)), "participant 'bänk' has characters other"),
    "an empty participant": usage(planned(lambda: debit("", 1)), "participant is empty"),
    "an empty gid sent": manager(execute(branch(), gid=""), "gid is empty", "BAD_ID"),
    "an over-long gid sent": manager(execute(branch(), gid=LONG), "the limit is 64", "BAD_ID"),
    "an ill-lettered gid sent": manager(execute(branch(), gid="a\nb"), "characters other than", "BAD_ID"),
    "an ill-lettered gid begun": manager(call("Begin", pb.BeginRequest(gid="ä")), "other than A-Z a-z", "BAD_ID"),
    "an ill-lettered gid confirmed": manager(call("Confirm", pb.ConfirmRequest(gid=" ")), "other than", "BAD_ID"),
    "an empty gid cancelled": manager(call("Cancel", pb.CancelRequest()), "gid is empty", "BAD_ID"),
    "an empty gid asked for": manager(call("Get", pb.GetRequest()), "gid is empty", "BAD_ID"),
    "an empty gid watched": manager(call("Watch", pb.WatchRequest()), "gid is empty", "BAD_ID"),
    "an ill-lettered step sent": manager(execute(branch("a b")), "step 'a b' has", "BAD_ID"),
    "an over-long step sent": manager(execute(branch(LONG)), "step has 65 characters", "BAD_ID"),
    "an empty step of an interactive Try": manager(try_call("open", branch()), "step is empty", "BAD_ID"),
    "an empty participant sent": manager(execute(branch(participant="")), "participant of step '0' is empty", "BAD_ID"),
    "an ill-lettered participant sent": manager(execute(branch(participant="a:b")), "other than A-Z", "BAD_ID"),
    "an over-long name": manager(
        execute(branch(), name="n" * 129), "name has 129 characters, the limit", "BAD_REQUEST"
    ),
    "a participant's own ill-lettered name": Bad(
        "participant", here(lambda _: make_server(Scripted(), name="bank a")), "participant name", tcc.UsageError
    ),
}

METHODS = {
    "an unknown participant": manager(
        execute(branch(participant="bank-z")), "not configured here; known: bank-a, bank-b", "UNKNOWN_PARTICIPANT"
    ),
    "an unknown participant in a Try": manager(
        try_call("open", branch("s", "bank-z")), "not configured here", "UNKNOWN_PARTICIPANT"
    ),
    "a method that is no path": manager(execute(branch(methods=methods("/TryDebit"))), "no path of", "BAD_METHODS"),
    "a method of endless length": manager(
        execute(branch(methods=methods("/" + "m" * 100_000))), "try_method", "BAD_METHODS"
    ),
    "a method left out": manager(execute(branch(methods=None)), "try_method '' is no path", "BAD_METHODS"),
    "methods of two services": manager(
        execute(branch(methods=methods("TryDebit", "/a.B/ConfirmDebit"))), "three methods of one service", "BAD_METHODS"
    ),
    "one method twice": manager(
        execute(branch(methods=methods("TryDebit", "CancelDebit"))), "three methods of one service", "BAD_METHODS"
    ),
    "an unknown method": participant(
        execute(branch(methods=methods("TryNothing", "ConfirmNothing", "CancelNothing"))),
        "TryNothing is no method of an action here; the actions are",
        Code.UNIMPLEMENTED,
        wire.WRONG_METHODS,
    ),
    "a method that is no action's": participant(
        execute(branch(methods=methods("GetAccount"))),
        "GetAccount is no method of an action here",
        Code.UNIMPLEMENTED,
        wire.WRONG_METHODS,
    ),
    "a Confirm in place of a Try": participant(
        execute(branch(methods=methods("ConfirmDebit", "TryDebit"))),
        "tcc-phase",
        Code.INVALID_ARGUMENT,
        wire.NOT_A_BRANCH,
    ),
    "a triple that isn't the participant's": participant(
        execute(branch(methods=methods("TryDebit", "ConfirmCredit", "CancelCredit"))),
        "is confirmed by /services.accounts.v1.Accounts/ConfirmDebit",
        Code.INVALID_ARGUMENT,
        wire.WRONG_METHODS,
    ),
    "a call of no Try planned": usage(
        here(lambda _: accounts_pb2_grpc.AccountsStub(tcc.plan).GetAccount(accounts_pb2.GetAccountRequest())),
        "GetAccount is no Try, so it cannot be part of a transaction",
    ),
    "a Confirm planned": usage(
        here(lambda _: accounts_pb2_grpc.AccountsStub(tcc.plan).ConfirmDebit(accounts_pb2.DebitRequest())),
        "is sent by the manager once the transaction is decided: call /services.accounts.v1.Accounts/TryDebit",
    ),
}

SIZES = {
    "no branches": usage(planned(), "nothing to execute: pass what a stub on tcc.plan returned"),
    "no branches sent": manager(execute(), "no branches: give 1 or more", "NO_BRANCHES"),
    "over 64 branches": manager(execute(*[branch()] * 65), "65 branches, the limit is 64", "LIMIT_EXCEEDED"),
    "over 64 branches by the SDK": Bad(
        "manager",
        planned(*[lambda: debit("bank-a", 1)] * 65),
        "65 branches, the limit is 64",
        tcc.ManagerError,
        Code.INVALID_ARGUMENT,
        "LIMIT_EXCEEDED",
    ),
    "a request over the limit": manager(
        execute(branch(request=b"r" * (256 * KIB + 1))), "262145 bytes, the limit is 262144", "LIMIT_EXCEEDED"
    ),
    "requests over the limit together": manager(
        execute(*[branch(request=b"r" * 256 * KIB)] * 5), "bytes together, the limit is 1048576", "LIMIT_EXCEEDED"
    ),
    "an interactive request over the limit": manager(
        try_call("open", branch("s", request=b"r" * (256 * KIB + 1))), "the limit is 262144", "LIMIT_EXCEEDED"
    ),
    "a plan that no manager takes": usage(planned(big(9 * KIB * KIB)), "bytes, and a manager takes at most"),
    "many requests that no manager takes together": usage(
        planned(*[big(300 * KIB)] * 40), "bytes, and a manager takes at most"
    ),
    "an interactive request that no manager takes": usage(too_large_interactive, "bytes, and a manager takes at most"),
    "metadata over the limit": manager(
        execute(branch(metadata=[pb.PlannedBranch().metadata.add(key="x-a", value=b"v" * 5000)])),
        "metadata of 5035 bytes, the limit is 4096",
        "LIMIT_EXCEEDED",
    ),
    "reserved metadata": usage(
        planned(lambda: debit("bank-a", 1, metadata=(("tcc-gid", "x"),))), "metadata 'tcc-gid' is reserved"
    ),
    "duplicate steps": usage(
        planned(*[lambda: debit("bank-a", 1, metadata=(("tcc-step", "a"),))] * 2), "steps must differ"
    ),
    "duplicate steps sent": manager(execute(branch("a"), branch("a")), "steps are distinct", "DUPLICATE_STEP"),
    "a step that is another's position": manager(
        execute(branch("1"), branch()), "steps are distinct", "DUPLICATE_STEP"
    ),
}

TIMES = {
    **{
        f"a timeout of {timeout}": usage(planned(lambda: debit("bank-a", 1), timeout=timeout), "give seconds above 0")
        for timeout in (0, -1, float("nan"), float("inf"), 1e12)
    },
    **{
        f"a Try's timeout of {timeout}": usage(
            planned(lambda timeout=timeout: debit("bank-a", 1, timeout=timeout)), "give seconds above 0"
        )
        for timeout in (0, -1, float("nan"), float("inf"), 1e12)
    },
    "a transaction's timeout of infinity": usage(
        here(lambda installation: installation.manager.transaction(timeout=float("inf"))), "give seconds above 0"
    ),
    "a deadline past": manager(
        execute(branch(), timeout=past(-5)), "which is past: give a positive time", "BAD_DEADLINE"
    ),
    "a deadline of now": manager(execute(branch(), timeout=past(0)), "give a positive time", "BAD_DEADLINE"),
    "a deadline over the maximum": manager(
        execute(branch(), timeout=past(3601)), "timeout is 3601 s, the limit is 3600 s", "BAD_DEADLINE"
    ),
    "a deadline over the maximum by the SDK": Bad(
        "manager",
        planned(lambda: debit("bank-a", 1), timeout=3601),
        "the limit is 3600 s",
        tcc.ManagerError,
        Code.INVALID_ARGUMENT,
        "BAD_DEADLINE",
    ),
    "a begin with a deadline past": manager(
        call("Begin", pb.BeginRequest(gid="bad", timeout=past(-1))), "which is past", "BAD_DEADLINE"
    ),
    "a Try's deadline past": manager(execute(branch(try_timeout=past(-1))), "give a positive time", "BAD_DEADLINE"),
}

ORDER = {
    "a planned call awaited": usage(awaited, "a planned call is carried out by manager.execute"),
    "a planned call executed twice": usage(executed_again, "was executed already: pass gid='first' to repeat"),
    "a call from another channel": usage(from_another_channel, "execute takes only what a stub on tcc.plan returned"),
    "a planned call never executed": Bad(
        "client", never_executed, "was never executed, so nothing was sent: pass it to", tcc.NeverExecutedWarning
    ),
    "Confirm of an unknown gid": manager(
        call("Confirm", pb.ConfirmRequest(gid="nobody")),
        "begin it first, or check",
        "UNKNOWN_TRANSACTION",
        Code.NOT_FOUND,
    ),
    "Confirm of a cancelled gid": manager(
        call("Confirm", pb.ConfirmRequest(gid="gone")), "was cancelled", "TRANSACTION_CANCELLED", Code.ABORTED
    ),
    "Cancel of an unknown gid": manager(
        call("Cancel", pb.CancelRequest(gid="nobody")), "no transaction nobody", "UNKNOWN_TRANSACTION", Code.NOT_FOUND
    ),
    "Cancel of a confirmed gid": manager(
        call("Cancel", pb.CancelRequest(gid="done")), "cannot be cancelled", "ALREADY_DECIDED", Code.FAILED_PRECONDITION
    ),
    "a Try in a plan": manager(
        try_call("done", branch("s")), "only Cancel, Get and Watch", "NOT_INTERACTIVE", Code.FAILED_PRECONDITION
    ),
    "a Try of an unknown gid": manager(
        try_call("nobody", branch("s")), "begin it first", "UNKNOWN_TRANSACTION", Code.NOT_FOUND
    ),
    "a Try after the Cancel": manager(
        try_call("gone", branch("s")), "transaction gone was cancelled", "TRANSACTION_CANCELLED", Code.ABORTED
    ),
    "a Try after the Confirm": manager(
        try_call("kept", branch("s")), "no branch can join", "ALREADY_DECIDED", Code.FAILED_PRECONDITION
    ),
    "a page token of nobody": manager(
        call("List", pb.ListRequest(page_token="x")),  # noqa: S106  of pages
        "start again without one",
        "BAD_PAGE_TOKEN",
    ),
}


def _odd_option(name: str) -> None:
    register(describe_service(name, "ConfirmThat"), "TryIt", "ConfirmIt", "CancelIt")


def _streaming(name: str) -> None:
    service = describe_service(name, "ConfirmIt")
    register(service, "TryIt", "ConfirmIt", "CancelIt", make=grpc.unary_stream_rpc_method_handler)


def _sync_handler() -> object:
    scripted: Any = Scripted()
    scripted.ConfirmDebit = lambda request, context: Empty()
    return make_server(scripted)


SERVERS = {
    "a wrong method name in the option": Bad(
        "participant", here(lambda _: _odd_option("bad_option")), "which is no method of bad_option.Odd", tcc.UsageError
    ),
    "a streaming handler": Bad(
        "participant", here(lambda _: _streaming("bad_stream")), "has a streaming handler", tcc.UsageError
    ),
    "a sync handler": Bad("participant", here(lambda _: _sync_handler()), "write `async def`", tcc.UsageError),
}

CASES = {**IDS, **METHODS, **SIZES, **TIMES, **ORDER, **SERVERS}


@pytest.fixture
async def standing(installation: Installation) -> Installation:
    """With transactions that are confirmed, confirmed interactively, cancelled, and open."""
    client = installation.manager
    await client.execute(*transfer(70), gid="done", wait=tcc.COMPLETED)
    async with client.transaction(gid="kept", wait=tcc.COMPLETED):
        pass
    async with client.transaction(gid="gone") as tx:
        await tx.cancel()
    async with grpc.aio.insecure_channel(installation.address):
        await call("Begin", pb.BeginRequest(gid="open"))(installation)
    await installation.ended("gone")
    return installation


@pytest.mark.parametrize("bad", CASES.values(), ids=[f"{bad.answers}: {name}" for name, bad in CASES.items()])
async def test_bad_input_is_a_clear_error_and_nothing_is_lost(standing: Installation, bad: Bad) -> None:
    client = standing.manager
    stood = {tx.gid: await client.get(tx.gid, with_payloads=True) async for tx in client.list()}
    books = [bank.books.accounts for bank in standing.banks]
    expected = grpc.aio.AioRpcError if bad.error is tcc.TransactionCancelled else bad.error
    with pytest.raises(expected) as caught:
        await bad.act(standing)
    error: Any = caught.value
    text = f"{error.details()} {error}" if isinstance(error, grpc.aio.AioRpcError) else str(error)
    assert bad.says in text
    assert "\n" not in str(error.details() if isinstance(error, grpc.aio.AioRpcError) else error)
    if bad.error is tcc.TransactionCancelled:
        await _check_refusal(standing, bad)
    elif bad.code is not None:
        code = error.code() if isinstance(error, grpc.aio.AioRpcError) else error.code
        assert code is bad.code
        assert _reason(error) == bad.reason

    begun = {tx.gid async for tx in client.list()} - set(stood)
    assert begun <= {"bad", "first", "large"}  # those whose plans were sound, or interactive
    assert {gid: await client.get(gid, with_payloads=True) for gid in stood} == stood
    await client.cancel("open")
    await standing.check()
    assert [bank.books.accounts for bank in standing.banks] == books
    assert bad.answers == "participant" or "bad" not in begun


async def _check_refusal(installation: Installation, bad: Bad) -> None:
    """The participant refused with its mark; the same call by the client's error says so."""
    view = await installation.ended("bad")
    (refused,) = view.branches
    assert refused.try_code is bad.code
    assert bad.says in refused.try_message
    if bad.reason == wire.WRONG_METHODS:
        assert refused.marked
        assert refused.command is None


def _reason(error: Any) -> str:
    if not isinstance(error, grpc.aio.AioRpcError):
        error = error.__cause__
    info = wire.error_info(dict(tuple(error.trailing_metadata() or ())).get(wire.STATUS_DETAILS, b""))
    return info.reason if info is not None else ""


async def test_a_confirm_of_a_confirmed_gid_is_the_same_answer_again(standing: Installation) -> None:
    assert (await standing.manager.confirm("kept")).state is tcc.State.CONFIRMED
    assert (await standing.manager.cancel("gone")).state is tcc.State.CANCELLED


# Files and processes. Nothing stands by here but what is named.


def test_config_a_broken_file_is_named_with_the_place(tmp_path: Path) -> None:
    file = tmp_path / "tcc.toml"
    file.write_text('listen = "127.0.0.1:0"\nlisten\n')
    with pytest.raises(ConfigError, match=r"tcc\.toml: not TOML: .*line 2"):
        load(file)


def test_cli_a_broken_configuration_file_is_exit_2_and_makes_no_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tcc.toml").write_text('lisen = "127.0.0.1:0"\n')
    assert main(["server", "--config", "tcc.toml"]) == 2
    assert "lisen: no such key; did you mean listen?" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tcc.toml"]


def _server(folder: Path, listen: str) -> subprocess.CompletedProcess[str]:
    (folder / "tcc.toml").write_text(f'listen = "{listen}"\nlog = "sqlite:///{folder}/tcc.db"\nlog_level = "error"\n')
    return subprocess.run(
        [sys.executable, "-m", "tcc", "server", "--config", str(folder / "tcc.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_cli_a_database_of_a_newer_version_is_exit_1_and_stays_as_it_was(tmp_path: Path) -> None:
    database = tmp_path / "tcc.db"
    migrate(database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE tcc_log_version SET version_num = '9999'")
    before = database.read_bytes()
    ran = _server(tmp_path, "127.0.0.1:0")
    assert ran.returncode == 1
    assert "of a newer version (revision 9999)" in ran.stderr
    assert "upgrade tcc-toolkit" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert database.read_bytes() == before


def test_cli_a_port_in_use_is_exit_1_and_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = _server(tmp_path, address)
    assert ran.returncode == 1
    assert f"tcc: cannot listen on {address}: is another process using the port?" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("gid", "code", "says"), [("a b", 2, "characters other than"), ("nobody", 3, "no transaction")]
)
async def test_cli_a_gid_that_cannot_be_or_is_not(
    standing: Installation, capsys: pytest.CaptureFixture[str], gid: str, code: int, says: str
) -> None:
    assert await asyncio.to_thread(main, ["tx", "show", gid, "--manager", standing.address]) == code
    assert says in capsys.readouterr().err


async def test_participant_a_call_that_does_not_say_its_branch_reserves_nothing(standing: Installation) -> None:
    before = standing.bank_a.books
    async with grpc.aio.insecure_channel(standing.bank_a.address) as channel:
        stub: Any = accounts_pb2_grpc.AccountsStub(channel)
        for metadata in ((), ((wire.GID, "a b"), (wire.BRANCH, "0")), ((wire.GID, "g"), (wire.BRANCH, LONG))):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.TryDebit(accounts_pb2.DebitRequest(account="ann", amount=1), metadata=metadata)
            assert refused.value.code() is Code.INVALID_ARGUMENT
            assert _reason(refused.value) == wire.NOT_A_BRANCH
    assert standing.bank_a.books == before
