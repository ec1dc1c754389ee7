"""All commands: their names, one line each, and examples. The code of each is in the module that its entry names."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnknownCommandError

from tcc_server.cli._exits import IN_WORDS, CommandError, Exit


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `module:function`, what its help says, and lines to copy."""

    path: str
    summary: str
    details: str
    examples: tuple[str, ...]


COMMANDS = {
    "dev": Command(
        "tcc_server.cli.dev:dev",
        "Run a manager for development: one process, no other server.",
        "Each participant is asked for its name and its actions. Transactions that are open when it stops go on when "
        "it starts again on the same data. Other settings come from TCC_... variables, as for 'tcc server'. "
        "Ctrl-C or SIGTERM stops it.",
        (
            "tcc dev --participant 127.0.0.1:50061",
            "tcc dev --participant 127.0.0.1:50061 127.0.0.1:50062 --listen 127.0.0.1:0",
            "tcc dev --participant bank-a=127.0.0.1:50061 --data :memory:",
        ),
    ),
    "server": Command(
        "tcc_server.cli.server:server",
        "Run a manager from a configuration file and the environment.",
        "Environment variables win over the file: TCC_LISTEN, TCC_RETRY__BACKOFF_MAX and so on. At SIGTERM or Ctrl-C "
        "it finishes what is under way and exits with 0.",
        (
            "tcc server --config tcc.toml",
            "TCC_LISTEN=0.0.0.0:7070 TCC_RETRY__BACKOFF_MAX=30 tcc server --config tcc.toml",
        ),
    ),
    "migrate": Command(
        "tcc_server.cli.migrate:migrate",
        "Bring the log's schema to this version.",
        "A manager on SQLite does this by itself when it starts; with this command it happens when you choose. Stop "
        "the manager first. It makes the log where there is none. Running it again changes nothing. Give either "
        "--config or --log.",
        ("tcc migrate --config tcc.toml", "tcc migrate --log sqlite:///tcc.db"),
    ),
    "bridge": Command(
        "tcc_server.cli.bridge:bridge",
        "Consume commands from RabbitMQ for services that are built without the SDK.",
        "It calls the Confirm and Cancel of each participant that the manager's configuration calls bridged. Run as "
        "many as you like. At SIGTERM or Ctrl-C it finishes what is under way and exits with 0.",
        ("tcc bridge --config tcc.toml", "tcc bridge --config tcc.toml --participant bank-c"),
    ),
    "doctor": Command(
        "tcc_server.cli.doctor:doctor",
        "Say what is wrong with an installation, and how to mend it.",
        "It looks at what a configuration names: the log, RabbitMQ, the participants and their fences; with --redis at "
        "the Redis of their locks too. It changes nothing, and may be run while all works. Exit code 1 where there is "
        "a problem; warnings alone give 0.",
        (
            "tcc doctor --config tcc.toml",
            "tcc doctor --config tcc.toml --redis redis://127.0.0.1:6379/0",
            "tcc doctor --config tcc.toml --json | jq -r 'select(.level != \"ok\") | .found'",
        ),
    ),
    "protos": Command(
        "tcc_server.cli.protos:protos",
        "Print the directory of tcc/v1/*.proto, for protoc's -I.",
        "'tcc protoc' finds it by itself.",
        ('protoc -I "$(tcc protos)" -I . --python_out=. bank/v1/bank.proto',),
    ),
    "protoc": Command(
        "tcc_server.cli.protoc:protoc",
        "Compile protos that use the tcc.v1.action option, to Python with types.",
        "Imports of tcc/v1, google/rpc and google/protobuf are found. A proto's path below its -I directory becomes "
        "the path of its modules below --out: keep it the same as the Python package that you want.",
        ("tcc protoc bank/v1/bank.proto", "tcc protoc -I protos --out src protos/bank/v1/*.proto"),
    ),
    "fence-ddl": Command(
        "tcc_server.cli.fence_ddl:fence_ddl",
        "Print the statement that makes the fence's table in a service's database.",
        "For services that make their tables by SQL scripts. A service can also call fence.create_tables(), or add "
        "the fence's metadata to its Alembic migrations.",
        (
            "tcc fence-ddl --dialect sqlite | sqlite3 accounts.db",
            "tcc fence-ddl --dialect postgresql > migrations/0007_tcc_fence.sql",
        ),
    ),
    "demo": Command(
        "tcc_server.cli.demo:demo",
        "Run the bank transfer demo, from a checkout of the repository.",
        "Transfers between two banks while processes are killed, and the proof that no money was lost or made. With "
        "the urls of a RabbitMQ, a Redis and a PostgreSQL: orders too, on the whole stack. It makes databases and "
        "queues of its own there, removes them in the end, and touches nothing else; 'make demo-full' starts servers "
        "of its own, and lets them fail as well.",
        (
            "tcc demo",
            "tcc demo --rabbitmq amqp://127.0.0.1/ --redis redis://127.0.0.1/0 --postgres postgresql://postgres@127.0.0.1/",
        ),
    ),
}
TX_COMMANDS = {
    "list": Command(
        "tcc_server.cli.tx_list:tx_list",
        "List transactions, newest first.",
        "With --json, each transaction is a document on a line of its own, without its branches.",
        (
            "tcc tx list",
            "tcc tx list --attention",
            "tcc tx list --state CONFIRMING CANCELLING --json | jq -r .gid",
        ),
    ),
    "show": Command(
        "tcc_server.cli.tx_show:tx_show",
        "Show one transaction: its branches and its timeline.",
        "Times are milliseconds since it began, on the manager's clock.",
        ("tcc tx show t-1", "tcc tx show t-1 --json | jq .state"),
    ),
    "watch": Command(
        "tcc_server.cli.tx_watch:tx_watch",
        "Follow one transaction until it has ended.",
        "Goes on where it was when the manager restarts. The exit code tells how it ended: 0 CONFIRMED, 5 CANCELLED, "
        "6 MIXED; 1 where --timeout came first.",
        ("tcc tx watch t-1 && echo confirmed", "tcc tx watch t-1 --timeout 60 --json"),
    ),
}


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what cannot be done is one line on standard error."""
    app = build()
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        print(f"tcc: {_in_words(error)} (see: {_help_for(arguments)})", file=sys.stderr)
        return Exit.USAGE
    except CommandError as error:
        print(f"tcc: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    return result if isinstance(result, int) else Exit.OK


def build() -> App:
    """The command with all of its commands, none of them imported yet."""
    app = App(
        name="tcc",
        help="The TCC toolkit: a transaction manager for Try-Confirm-Cancel, and what goes with it.",
        help_format="plaintext",
        help_epilogue=_examples("tcc dev --participant 127.0.0.1:50061", "tcc tx list", "tcc tx show t-1")
        + f"\n\n{IN_WORDS}",
        version=_version,
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    tx = App(name="tx", help="Look at transactions, through the manager's API.", help_epilogue=_examples("tcc tx list"))
    app.command(tx)
    for parent, commands in ((app, COMMANDS), (tx, TX_COMMANDS)):
        for name, command in commands.items():
            text = f"{command.summary}\n\n{command.details}"
            parent.command(command.path, name=name, help=text, help_epilogue=_examples(*command.examples))
    return app


def _examples(*lines: str) -> str:
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def _version() -> str:
    try:
        return f"tcc-toolkit {version('tcc-toolkit')}"
    except PackageNotFoundError:
        return "tcc-toolkit, from a checkout that is not installed"


def _in_words(error: CycloptsError) -> str:
    if isinstance(error, UnknownCommandError):  # its own text would import every command, for suggestions
        wrong = error.unused_tokens[0] if error.unused_tokens else ""
        near = difflib.get_close_matches(wrong, [*COMMANDS, "tx", *TX_COMMANDS], n=1)
        return f"no command {wrong!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    return " ".join(str(error).split()).rstrip(".")


def _help_for(arguments: Sequence[str]) -> str:
    command = [argument for argument in arguments[:2] if argument in {*COMMANDS, "tx", *TX_COMMANDS}]
    return " ".join(["tcc", *command, "--help"])
