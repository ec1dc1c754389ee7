"""The clock of this machine against the database's.

Safety never depends on wall clocks, only deadlines do: they stand in rows as wall time, and are read by whichever
replica goes on with a transaction. Participants have no way to tell their time, so nothing is said of theirs.
"""

from __future__ import annotations

from tcc_server.doctor.finding import Finding, ok, warning

SUBJECT = "clock"

TOLERATED = 1.0
"""Seconds of difference that nobody notices: deadlines are in tens of seconds."""


def judge(before: float, database: float, after: float) -> Finding:
    """Compare this machine's clock with the database's.

    Args:
        before: this machine's time when the question left, in seconds since 1970.
        database: what the database's clock answered.
        after: this machine's time when the answer was there.
    """
    # Somewhere between the two is when the database looked at its clock.
    apart = database - after if database > after else max(0.0, before - database)
    if apart > TOLERATED:
        which = "behind" if database > after else "ahead of"
        return warning(
            SUBJECT,
            f"this machine's clock is {apart:.1f} s {which} the database's: another replica that goes on with a "
            "transaction sees its deadline too early or too late by that much",
            "let NTP keep the clocks of all machines",
        )
    return ok(SUBJECT, "this machine's clock and the database's agree to within a second")
