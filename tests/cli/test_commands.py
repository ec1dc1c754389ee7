"""The command as a whole: help, exit codes, what it imports, what it says when something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tcc_server.cli._app import COMMANDS, TX_COMMANDS
from tcc_server.cli._exits import IN_WORDS, Exit
from tests.cli.conftest import Run
from tests.cli.fake_manager import FakeManager

ALL = [(name,) for name in COMMANDS] + [("tx", name) for name in TX_COMMANDS]
ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, in the repository."""
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**kept, **environ}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_every_command_has_help_with_examples_that_name_it(run: Run, command: tuple[str, ...]) -> None:
    ran = run(*command, "--help")
    assert (ran.code, ran.err) == (0, "")
    examples = ran.out.partition("Examples:\n")[2]
    assert " ".join(("tcc", *command)) in examples


def test_help_lists_all_commands_and_the_exit_codes_and_is_what_no_arguments_give(run: Run) -> None:
    ran = run("--help")
    assert all(f"│ {name} " in ran.out for name in [*COMMANDS, "tx"])
    assert IN_WORDS in ran.out
    assert run() == ran
    assert all(f"│ {name} " in run("tx").out for name in TX_COMMANDS)


def test_the_exit_codes_are_what_scripts_were_told() -> None:
    assert {code.name: code.value for code in Exit} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "UNREACHABLE": 4,
        "CANCELLED": 5,
        "MIXED": 6,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lst",), "no command 'lst'; did you mean 'list'? (see: tcc --help)"),
        (("tx", "frob"), "no command 'frob' (see: tcc tx --help)"),
        (("tx", "show"), "GID requires an argument (see: tcc tx show --help)"),
        (("tx", "show", "t-1", "--frob"), "Unknown option: --frob"),
        (("tx", "list", "--limit", "0"), "--limit"),
        (("tx", "list", "--state", "DONE"), 'Invalid value "DONE" for --state'),
        (("fence-ddl", "--dialect", "oracle"), 'Choose from: "sqlite", "postgresql"'),
        (("migrate",), "give either --config FILE or --log URL"),
        (("migrate", "--log", "mysql://h/d"), "command line: log = "),
        (("migrate", "--log", "memory:"), "a log in memory has no schema"),
        (("server", "--config", "no-such.toml"), "no-such.toml: no such file"),
        (("dev",), "--participant requires an argument"),
        (("dev", "--participant", "bank"), "--participant bank: must be host:port"),
        (("dev", "--participant", "a=h:1", "a=h:2"), "--participant a=h:2: a is h:1 already"),
        (
            ("dev", "--participant", "127.0.0.1:1", "--listen", "here"),
            'command line: listen = "here": must be host:port',
        ),
        (("dev", "--participant", "a b=h:1", "--data", ":memory:"), "the name 'a b' has characters other than"),
        (("protoc", "no-such.proto"), "no such file: no-such.proto"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_arguments_exit_with_2_and_one_line_that_says_what_is_wrong(
    run: Run, arguments: tuple[str, ...], said: str
) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.startswith("tcc: ")
    assert ran.err.count("\n") == 1


def test_each_mistake_in_a_configuration_file_has_a_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tcc.toml").write_text('lisen = "x"\ndrain_timeout = -1\n')
    ran = run("server", "--config", str(tmp_path / "tcc.toml"))
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 2
    assert "did you mean listen?" in ran.err


def test_the_light_commands_import_neither_grpc_nor_the_database_nor_the_configuration() -> None:
    script = (
        "import sys\nfrom tcc_server.cli import main\n"
        "for arguments in (['protos'], ['--help'], ['frob']):\n    main(arguments)\n"
        "heavy = {'grpc', 'sqlalchemy', 'pydantic', 'tcc_server.app'} & sys.modules.keys()\n"
        "print('heavy:', sorted(heavy))\n"
    )
    assert python("-c", script).stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("cyclopts", ["tx", "list"], "server"),
        ("cyclopts", ["protoc", "x.proto"], "types"),
        ("sqlalchemy", ["fence-ddl", "--dialect", "sqlite"], "server"),
        ("structlog", ["server", "--config", "x.toml"], "server"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_the_extra_that_has_it(
    missing: str, arguments: list[str], extra: str
) -> None:
    script = (
        f"import sys\nsys.modules[{missing!r}] = None\nfrom tcc_server.cli import main\nsys.exit(main({arguments!r}))\n"
    )
    ran = python("-c", script)
    assert ran.returncode == 2
    assert ran.stderr == f"tcc: this needs the package {missing}: pip install 'tcc-toolkit[{extra}]'\n"


def test_python_m_tcc_is_the_same_command() -> None:
    ran = python("-m", "tcc", "protos", "--json")
    assert json.loads(ran.stdout) == {"include": str(ROOT / "tcc" / "_protos")}
    assert python("-m", "tcc", "frob").returncode == 2


def test_version_names_the_distribution(run: Run) -> None:
    assert run("--version").out.startswith("tcc-toolkit")


def test_colour_is_for_terminals_only() -> None:
    plain = python("-m", "tcc", "--help")
    assert "\x1b[" not in plain.stdout
    assert "\x1b[" in python("-m", "tcc", "--help", FORCE_COLOR="1").stdout


@pytest.mark.parametrize("arguments", [["protos"], ["tx", "list"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(manager: FakeManager, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "tcc", *arguments],
            cwd=ROOT,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ran.returncode, ran.stderr) == (0, "")
