"""Writes the parts of docs/ that are made from the code, or checks that they are what the code gives.

    python tools/docs.py write    generate
    python tools/docs.py check    exit 1, naming the files, where a commit forgot to

docs/configuration.md is made whole, from the keys of the configuration. In the other files what stands between
`<!-- generated: NAME -->` and `<!-- end -->` is made from the tables that the manager and the fence themselves look
things up in, so that the text about them cannot drift from what they do.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import grpc  # noqa: E402  the root has to be on the path for what follows

from tcc.fence._rules import AFTER, TABLE, Phase, Rule, State  # noqa: E402
from tcc_server.config import Key, keys as all_keys  # noqa: E402
from tcc_server.core.model import OutcomeKind, Reservation, Settlement  # noqa: E402
from tcc_server.core.rules import DECIDED, FINISHED, OUTCOME, OWED, TRY_STATUS  # noqa: E402

DOCS = ROOT / "docs"
CONFIGURATION = DOCS / "configuration.md"
_SECTION = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

_INTRODUCTION = """\
# Configuration

All keys of the manager (`tcc server`, `tcc dev`, `tcc bridge`, `tcc migrate`, `tcc doctor`), made from the code by
`make docs`. A value comes from the command line, else from the environment, else from the TOML file of `--config`, else
it is the default. The environment's name of a key is its name in capitals after `TCC_`, with two underscores for a dot:
`retry.backoff_max` is `TCC_RETRY__BACKOFF_MAX`. Participants come from the environment all at once, as JSON:
`TCC_PARTICIPANTS='{"bank-a": {"endpoint": "127.0.0.1:50061"}}'`.

A key that does not exist, or a value that cannot be, is an error at the start, which names the place, the key and what
to do; nothing is ignored in silence. Passwords in URLs are never shown. `TCC_MANAGER` is no key of the manager: it is
the address that `tcc tx` calls.
"""


def configuration() -> str:
    """The whole of docs/configuration.md."""
    tables: dict[str, list[Key]] = {}
    for key in all_keys():
        tables.setdefault(key.name.rpartition(".")[0], []).append(key)
    return "\n".join([_INTRODUCTION, *(part for name, keys in tables.items() for part in _table(name, keys))])


def _table(name: str, keys: Sequence[Key]) -> Iterator[str]:
    yield f"## `[{name}]`\n" if name else "## Top level\n"
    for key in keys:
        field = key.name.rpartition(".")[2]
        facts = [f"default {_default(key)}"]
        facts += [key.unit] if key.unit else []
        facts += list(_bounds(key))
        yield f"- **`{field}`** ({', '.join(facts)})\\\n  {key.description}"
    yield ""


def _default(key: Key) -> str:
    if key.default is None:
        return "none: it must be given"
    if isinstance(key.default, bool):
        return f"`{str(key.default).lower()}`"
    if isinstance(key.default, str):
        return f'`"{key.default}"`'
    if isinstance(key.default, (int, float)):
        return f"`{key.default:g}`" if isinstance(key.default, float) else f"`{key.default}`"
    return "empty"


_WORDS = {"gt": "more than {:g}", "ge": "at least {:g}", "lt": "less than {:g}", "le": "at most {:g}"}


def _bounds(key: Key) -> Iterator[str]:
    choices = getattr(key.field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        yield "one of " + ", ".join(f'`"{choice}"`' for choice in choices)
    for rule in key.field.metadata:
        for name, words in _WORDS.items():
            bound = getattr(rule, name, None)
            if isinstance(bound, int) and bound >= 1_000_000:
                yield f"at most {bound}"
            elif isinstance(bound, (int, float)):
                yield words.format(bound)


_RESERVATION = {
    Reservation.RESERVED: "reserved",
    Reservation.REFUSED: "refused; no Cancel needed",
    Reservation.DECLINED: "refused; Cancel is sent",
    Reservation.UNKNOWN: "unknown: the Try is repeated until the deadline, then Cancel is sent",
    Reservation.PENDING: "not answered yet",
}
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def _try_status() -> Iterator[Sequence[str]]:
    """CONTRACT.md, "What a Try's status means": codes of the same meaning in one row."""
    yield "status", "with `tcc-refused: 1`", "without"
    rows: dict[tuple[Reservation, Reservation], list[str]] = {}
    for code, meaning in TRY_STATUS.items():
        rows.setdefault(meaning, []).append(_CODES[code])
    for (with_mark, without), codes in rows.items():
        yield ", ".join(codes), _RESERVATION[with_mark], _RESERVATION[without]


_OWED = {
    Settlement.OPEN: "the command is sent until it is answered",
    Settlement.NOTHING_OWED: "nothing: it holds nothing",
    None: "cannot be: this stands in the way of Confirm",
}


def _owed() -> Iterator[Sequence[str]]:
    decisions = list(dict.fromkeys(decision for decision, _ in OWED))
    yield "the branch is", *(f"at {decision.name.capitalize()}" for decision in decisions)
    for reservation in dict.fromkeys(reservation for _, reservation in OWED):
        yield _RESERVATION[reservation].partition(":")[0], *(_OWED[OWED[one, reservation]] for one in decisions)


def _states() -> Iterator[Sequence[str]]:
    yield "decision", "state until all branches are settled", "state then, unless a branch contradicts"
    for decision, state in DECIDED.items():
        yield decision.name.capitalize(), f"`{state.name}`", f"`{FINISHED[state].name}`"


_OUTCOMES = {
    OutcomeKind.DONE: "the effect stands, from this delivery or an earlier one",
    OutcomeKind.CONTRADICTED: "the fence holds the opposite of the decision",
    OutcomeKind.BUSY: "another delivery of the command is being worked on",
    OutcomeKind.RETRY: "the handler failed, and was rolled back",
    OutcomeKind.NO_TRY: "a Confirm for which the fence has no Try",
}


def _outcomes() -> Iterator[Sequence[str]]:
    yield "outcome", "says", "the manager"
    for kind, rule in OUTCOME.items():
        if rule.settles is Settlement.DONE:
            does = "is done with the branch"
        elif rule.settles is not None:
            does = "is done with the branch; the transaction becomes MIXED once all are settled"
        elif rule.wants_person:
            does = "sends it again, slowly, and calls for a person at once (attention)"
        elif rule.is_failure:
            does = "sends it again with growing pauses; many of them call for a person"
        else:
            does = "sends it again, and counts no failure"
        yield f"`{kind.name}`", _OUTCOMES[kind], does


def _cell(state: State | None, phase: Phase) -> str:
    after = AFTER[phase].value
    match TABLE[state, phase]:
        case Rule.RUN if phase is Phase.TRY:
            return f"run, then {after}, or {State.REFUSED} with code and text"
        case Rule.RUN:
            return f"run, then {after}, DONE"
        case Rule.RECORD:
            return f"{after} without business code, DONE"
        case Rule.REPLY:
            return "the stored reply"
        case Rule.REFUSE:
            return "the stored refusal"
        case Rule.LATE_TRY:
            return "FAILED_PRECONDITION, reason LATE_TRY, marked"
        case rule:
            return rule.name


def _fence() -> Iterator[Sequence[str]]:
    yield "the row says", *(phase.name.capitalize() for phase in Phase)
    for state in (None, *State):
        yield "(no row)" if state is None else f"`{state}`", *(_cell(state, phase) for phase in Phase)


SECTIONS: dict[str, Callable[[], Iterator[Sequence[str]]]] = {
    "states": _states,
    "try-status": _try_status,
    "owed": _owed,
    "outcomes": _outcomes,
    "fence": _fence,
}


def section(name: str) -> str:
    """One generated table. Raises KeyError for a name that is none."""
    head, *rows = SECTIONS[name]()
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def generated() -> dict[Path, str]:
    """What each file with generated parts has to hold."""
    files = {CONFIGURATION: configuration()}
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text("utf-8")
        if path != CONFIGURATION and _SECTION.search(text):
            files[path] = _SECTION.sub(lambda found: f"{found[1]}{section(found[2])}{found[3]}", text)
    return files


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description="The generated parts of docs/.")
    parser.add_argument("what", choices=["write", "check"])
    write = parser.parse_args().what == "write"
    stale = [(path, text) for path, text in generated().items() if not path.exists() or path.read_text("utf-8") != text]
    for path, text in stale:
        if write:
            path.write_text(text, "utf-8")
        print(f"docs: {'wrote' if write else 'not what the code gives:'} {path.relative_to(ROOT)}")
    if stale and not write:
        print("docs: run `make docs`", file=sys.stderr)
    return int(bool(stale) and not write)


if __name__ == "__main__":
    sys.exit(main())
