"""The manager's log messages, on standard error: lines for people on a terminal, JSON elsewhere.

The law: a message that nobody can take (the reader of a pipe is gone, the disk is full) never stops what it tells of.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

import structlog
from structlog.typing import Processor

from tcc_server.config import Config


def set_up_logging(config: Config) -> None:
    """Send this process's messages, those of libraries included, to standard error as the configuration says."""
    on_terminal = sys.stderr.isatty()
    as_json = config.log_format == "json" or (config.log_format == "auto" and not on_terminal)
    level = logging.getLevelNamesMapping()[config.log_level.upper()]
    enrich: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=on_terminal and not os.environ.get("NO_COLOR"))]
    )
    structlog.configure(
        processors=[*enrich, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(_Unfailing(sys.stderr)),  # type: ignore[arg-type]  # all it calls
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=enrich,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


class _Unfailing:
    """A stream that loses what it cannot write. The standard library's handlers do that by themselves."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: it was closed
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()
