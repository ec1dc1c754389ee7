"""The manager's log messages, on standard error: lines for people on a terminal, JSON elsewhere."""

from __future__ import annotations

import logging
import os
import sys

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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=enrich,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
