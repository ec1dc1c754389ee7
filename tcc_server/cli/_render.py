"""How transactions look on a terminal: a table of many, a timeline of one, a line for a state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tcc.v1 import transaction_pb2 as v1
from tcc_server.cli._output import printable

_STYLES = {
    v1.STATE_CONFIRMED: "green",
    v1.STATE_CANCELLED: "yellow",
    v1.STATE_MIXED: "bold red",
}
_OPEN = "cyan"
_TOLD_ELSEWHERE = frozenset({"begun", "enlisted", "decided", "finished"})
"""History that the timeline shows from the transaction's own fields."""

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def render_list(transactions: Sequence[v1.Transaction]) -> Table | Text:
    """A table, one row a transaction."""
    if not transactions:
        return Text("no transactions")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("gid", overflow="fold")
    for column in ("name", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("begun (UTC)", no_wrap=True)
    table.add_column("took ms", justify="right", no_wrap=True)
    table.add_column("attention", overflow="fold")
    for one in transactions:
        table.add_row(
            Text(printable(one.gid)),
            Text(printable(one.name)),
            _state(one.state),
            _moment(one.begun_at),
            f"{_since(one, one.finished_at):.1f}" if one.HasField("finished_at") else "",
            Text(printable(one.last_error) or "yes", style="red") if one.attention else "",
        )
    return table


def render_state(transaction: v1.Transaction) -> Text:
    """One line for a state that was watched."""
    reserved = sum(branch.try_result == v1.TRY_RESULT_RESERVED for branch in transaction.branches)
    settled = sum(branch.HasField("settled_at") for branch in transaction.branches)
    total = len(transaction.branches)
    line = Text(f"{printable(transaction.gid)}  ")
    line.append_text(_state(transaction.state))
    line.append(f"  version {transaction.version}, reserved {reserved}/{total}, settled {settled}/{total}")
    if transaction.attention:
        line.append(f"  attention: {printable(transaction.last_error)}", style="red")
    return line


def render_timeline(transaction: v1.Transaction) -> Tree:
    """One transaction as a tree in the order of time: each Try, the decision, each command, the end.

    Times are milliseconds since it began, on the manager's clock.
    """
    tree = Tree(_title(transaction))
    tree.add(_line(transaction, transaction.begun_at, "begun", _how_begun(transaction)))
    _add_phase(tree, "Try", (_tried(transaction, branch) for branch in transaction.branches))
    if transaction.HasField("decided_at"):
        tree.add(_line(transaction, transaction.decided_at, _decision(transaction), _why(transaction)))
    commanded = [branch for branch in transaction.branches if branch.command != v1.PHASE_UNSPECIFIED]
    if commanded:
        _add_phase(tree, _phase(commanded[0].command), (_commanded(transaction, branch) for branch in commanded))
    _add_phase(tree, "History", _told(transaction))
    if transaction.HasField("finished_at"):
        tree.add(_line(transaction, transaction.finished_at, "finished", _state(transaction.state)))
    return tree


def _title(transaction: v1.Transaction) -> Text:
    title = Text(printable(transaction.name), style="bold").append(" " if transaction.name else "")
    title.append(printable(transaction.gid)).append("  ").append_text(_state(transaction.state))
    title.append(f"  {_moment(transaction.begun_at)} UTC", style="dim")
    if transaction.attention:
        title.append(f"\nattention: {printable(transaction.last_error)}", style="red")
    return title


def _add_phase(tree: Tree, name: str, lines: Iterable[Text]) -> None:
    found = list(lines)
    if found:
        below = tree.add(Text(name, style="bold"))
        for line in found:
            below.add(line)


def _how_begun(transaction: v1.Transaction) -> str:
    how = "interactive" if transaction.interactive else "by Execute"
    return f"{how}, deadline at {_since(transaction, transaction.deadline):,.0f} ms"


def _tried(transaction: v1.Transaction, branch: v1.Branch) -> Text:
    line = _called(transaction, branch, branch.methods.try_method, branch.try_sent_at, branch.try_answered_at)
    match branch.try_result:
        case v1.TRY_RESULT_RESERVED:
            line.append("reserved", style="green")
        case v1.TRY_RESULT_REFUSED:
            line.append(f"refused: {_status(branch.try_status)}", style="yellow")
            line.append("" if branch.marked else " (not marked: Cancel is sent)")
        case v1.TRY_RESULT_UNKNOWN:
            line.append(f"unknown: {_status(branch.try_status)}", style="yellow")
        case _:
            line.append("no answer yet", style="cyan")
    if branch.HasField("expires_at"):
        line.append(f", expires at {_since(transaction, branch.expires_at):,.0f} ms")
    return line.append(_times(branch.try_attempts), style="dim")


def _commanded(transaction: v1.Transaction, branch: v1.Branch) -> Text:
    confirming = branch.command == v1.PHASE_CONFIRM
    method = branch.methods.confirm_method if confirming else branch.methods.cancel_method
    line = _called(transaction, branch, method, branch.command_sent_at, branch.settled_at)
    if branch.HasField("settled_at"):
        contradicted = branch.outcome == v1.OUTCOME_KIND_CONTRADICTED
        line.append("contradicted" if contradicted else "done", style="bold red" if contradicted else "green")
    elif branch.command_attempts:
        line.append("waiting", style="cyan")
    else:
        line.append("not sent yet", style="cyan")
    line.append(_times(branch.command_attempts), style="dim")
    if branch.command_failures:
        line.append(f", {branch.command_failures} failed", style="yellow")
    if branch.last_error:
        line.append(f", last error: {printable(branch.last_error)}", style="yellow")
    return line


def _called(transaction: v1.Transaction, branch: v1.Branch, method: str, sent: Timestamp, answered: Timestamp) -> Text:
    """The beginning of a branch's line: which branch, what was called, from when to when."""
    name = printable(method.rpartition("/")[2])
    line = Text(f"{printable(branch.step)}  {printable(branch.participant)} {name}  ")
    span = [f"{_since(transaction, at):,.1f}" for at in (sent, answered) if at.ByteSize()]
    return line.append(f"{' → '.join(span)} ms  " if span else "", style="dim")


def _told(transaction: v1.Transaction) -> Iterator[Text]:
    for entry in transaction.history:
        if entry.what not in _TOLD_ELSEWHERE:
            about = f"by {printable(entry.who)}" if entry.who else ""
            about += f": {printable(entry.reason)}" if entry.reason else ""
            yield _line(transaction, entry.at, printable(entry.what), about)


def _line(transaction: v1.Transaction, at: Timestamp, what: str, about: str | Text) -> Text:
    return (
        Text(f"{what}  ", style="bold")
        .append(f"{_since(transaction, at):,.1f} ms  ", style="not bold dim")
        .append(about if isinstance(about, Text) else Text(about, style="not bold"))
    )


def _decision(transaction: v1.Transaction) -> str:
    return "decided Confirm" if transaction.decision == v1.DECISION_CONFIRM else "decided Cancel"


def _why(transaction: v1.Transaction) -> str:
    match transaction.cancel_reason:
        case v1.CANCEL_REASON_REFUSED:
            return "because a participant refused"
        case v1.CANCEL_REASON_DEADLINE:
            return "because the deadline came"
        case v1.CANCEL_REASON_CLIENT:
            return "because the client asked for it"
        case v1.CANCEL_REASON_EXPIRY:
            return "because a reservation would have expired"
        case _:
            return ""


def _phase(phase: v1.Phase.ValueType) -> str:
    return "Confirm" if phase == v1.PHASE_CONFIRM else "Cancel"


def _status(status: v1.CallStatus) -> str:
    code = _CODES.get(status.code, str(status.code))
    return f"{code}: {printable(status.message)}" if status.message else code


def _times(attempts: int) -> str:
    return f", attempt {attempts}" if attempts > 1 else ""


def _state(state: v1.State.ValueType) -> Text:
    return Text(v1.State.Name(state).removeprefix("STATE_"), style=_STYLES.get(state, _OPEN))


def _moment(at: Timestamp) -> str:
    return f"{at.ToDatetime(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def _since(transaction: v1.Transaction, at: Timestamp) -> float:
    return (at.ToNanoseconds() - transaction.begun_at.ToNanoseconds()) / 1e6
