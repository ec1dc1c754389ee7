"""`tcc doctor`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from tcc_server.cli._exits import Exit
from tcc_server.cli._options import ConfigFile, Json
from tcc_server.cli._output import console, print_json, printable
from tcc_server.cli._settings import configured
from tcc_server.doctor.examine import examine
from tcc_server.doctor.finding import Finding, Level

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
_WIDTH = 9


def doctor(
    *,
    config: ConfigFile,
    redis: Annotated[str | None, Parameter(help="The participants' Redis, such as redis://127.0.0.1:6379/0.")] = None,
    json: Json = False,
) -> Exit:
    """Say what is wrong with an installation, and how to mend it."""
    settings = configured(config, os.environ)
    logging.getLogger().addHandler(logging.NullHandler())  # what libraries log is said by the findings, in words
    worst = asyncio.run(_tell(examine(settings, redis), json=json))
    return Exit.FAILED if worst is Level.PROBLEM else Exit.OK


async def _tell(findings: AsyncIterator[Finding], *, json: bool) -> Level:
    """Print findings as they come; gives the worst level."""
    levels = dict.fromkeys(Level, 0)
    out = console()
    async for finding in findings:
        levels[finding.level] += 1
        if json:
            print_json(asdict(finding))
        else:
            _print(out, finding)
    if not json:
        counts = (f"{count} {level}" for level, count in levels.items() if count)
        out.print(f"\n{', '.join(counts)}")
    return max((level for level in levels if levels[level]), key=list(Level).index, default=Level.OK)


def _print(out: Console, finding: Finding) -> None:
    line = Text.assemble(
        (f"{finding.level:<{_WIDTH}}", _STYLES[finding.level]), (f"{printable(finding.subject)}: ", "bold")
    )
    line.append(printable(finding.found))
    out.print(line, soft_wrap=not out.is_terminal)
    if finding.mend:
        mend = Text.assemble(("mend: ", "dim"), printable(finding.mend))
        out.print(Padding(mend, (0, 0, 0, _WIDTH)), soft_wrap=not out.is_terminal)
