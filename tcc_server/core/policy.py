"""The numbers that the core decides by. All times in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Retries, patience and margins; the configuration documents each under the same name.

    Attributes:
        answer_timeout: a command without an outcome is sent again after this long, doubling up to
            `answer_timeout_max`.
        backoff_first: a failed command waits up to this long (full jitter), doubling up to `backoff_max`.
        no_try_interval: how often a command is repeated that found no Try.
        attention_failures: this many failed outcomes of one branch raise attention.
        attention_age: so does this much time between decision and end.
        try_attempt_timeout: how long one attempt of a Try may take.
        try_backoff_first: an unknown Try waits up to this long (full jitter), doubling up to `try_backoff_max`.
        expiry_margin: a Confirm is decided only this long before the earliest reservation expires.
        record_after: outcomes are written as they come in transactions open for longer than this after the decision.
        seen_spread: the commands of a participant that is seen again are sent within this time.
    """

    answer_timeout: float = 10.0
    answer_timeout_max: float = 60.0
    backoff_first: float = 0.1
    backoff_max: float = 10.0
    no_try_interval: float = 60.0
    attention_failures: int = 10
    attention_age: float = 300.0
    try_attempt_timeout: float = 10.0
    try_backoff_first: float = 0.05
    try_backoff_max: float = 2.0
    expiry_margin: float = 1.0
    record_after: float = 1.0
    seen_spread: float = 1.0

    def answer_wait(self, unanswered: int) -> float:
        """How long to wait for an outcome after `unanswered` sends in a row without one."""
        return float(min(self.answer_timeout_max, self.answer_timeout * 2 ** min(unanswered, 30)))

    def backoff(self, failures: int, dice: float) -> float:
        """Full jitter: somewhere up to the doubled ceiling. At least a millisecond, so that nothing spins."""
        ceiling = min(self.backoff_max, self.backoff_first * 2 ** min(max(failures - 1, 0), 30))
        return float(max(0.001, ceiling * dice))

    def retry_wait(self, hint: float | None, failures: int, dice: float) -> float:
        """How long a command waits after an outcome that did not settle it: its hint, or the backoff.

        A hint is taken between 50 ms and an hour, so that nobody's mistake makes a hot loop or a grave.
        """
        return self.backoff(failures, dice) if hint is None else min(3600.0, max(0.05, hint))

    def try_backoff(self, attempts: int, dice: float) -> float:
        """The same for a Try whose answer told nothing."""
        ceiling = min(self.try_backoff_max, self.try_backoff_first * 2 ** min(max(attempts - 1, 0), 30))
        return float(max(0.001, ceiling * dice))
