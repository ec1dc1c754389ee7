"""Where adoption stands: a sweep goes once over the unfinished rows of the dead, in order, and never back.

The law: adopting n rows reads each of them once, whatever the size of a batch. A batch that asked for "the first that
are not mine" would pass over all that are already adopted: on PostgreSQL their old versions stand in the index until
they are vacuumed away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tcc_server.log.seam import Row

Place = tuple[float, str, str]
"""wake_at, namespace and gid of a row: the order in which rows are adopted."""

START: Place = (-math.inf, "", "")
"""Before every row."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One pass.

    Attributes:
        owners: the dead, as they were found when it began.
        after: the last row that it has passed.
    """

    owners: Sequence[str]
    after: Place = START

    def beyond(self, passed: Sequence[Row], wanted: int) -> Sweep | None:
        """Where it stands after those rows; None if they were fewer than wanted, since then it is at its end."""
        if len(passed) < wanted:
            return None
        return replace(self, after=place_of(passed[-1])) if passed else self


def place_of(row: Row) -> Place:
    """Where an unfinished row stands in the order."""
    return (row.wake_at if row.wake_at is not None else math.inf, *row.key)


OWNERS = """
owners(owner) AS (
  SELECT (SELECT t.owner FROM tcc_transaction t WHERE t.wake_at IS NOT NULL ORDER BY t.owner LIMIT 1)
  UNION ALL
  SELECT (
    SELECT t.owner FROM tcc_transaction t
    WHERE t.wake_at IS NOT NULL AND t.owner > owners.owner ORDER BY t.owner LIMIT 1
  )
  FROM owners WHERE owners.owner IS NOT NULL
)
"""
"""A recursive CTE of the owners of unfinished rows: from each the index leads to the next. The last one is NULL."""
