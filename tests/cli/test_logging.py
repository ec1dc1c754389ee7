"""What becomes of the manager's log messages."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from tcc_server.cli._logging import set_up_logging
from tcc_server.config import Config


class Pipe(io.StringIO):
    """A stream whose reader may go."""

    reader_gone = False

    def write(self, text: str) -> int:
        if self.reader_gone:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    """Standard error, to which messages go as JSON."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    pipe = Pipe()
    monkeypatch.setattr(sys, "stderr", pipe)
    set_up_logging(Config(log="sqlite:///tcc.db"))
    yield pipe
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_messages_go_to_standard_error_a_line_of_json_each(pipe: Pipe) -> None:
    structlog.get_logger().warning("lease_not_renewed", replica="r1")
    logging.getLogger("tcc.amqp").warning("the broker is away")
    first, second = map(json.loads, pipe.getvalue().splitlines())
    assert (first["event"], first["replica"], first["level"]) == ("lease_not_renewed", "r1", "warning")
    assert second["event"] == "the broker is away"


def test_what_is_told_goes_on_when_nobody_can_read_it(pipe: Pipe) -> None:
    log = structlog.get_logger()
    log.warning("before")
    pipe.reader_gone = True
    log.warning("lost")
    logging.getLogger("tcc.amqp").warning("lost too")
    pipe.reader_gone = False
    log.warning("after")
    assert [json.loads(line)["event"] for line in pipe.getvalue().splitlines()] == ["before", "after"]
    pipe.close()
    log.warning("lost for good")
