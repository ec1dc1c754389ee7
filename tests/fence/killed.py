"""A process that makes one list of visits and is killed on the way.

python -m tests.fence.killed URL MOMENT
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from tcc.fence import Body, Record, Result
from tcc.fence._postgres import PostgresRows
from tcc.fence._rows import Changes, Rows
from tcc.fence._sqlite import SqliteRows
from tests.fence.lists import add, effect, in_one_list, of
from tests.fence.sharing import SharingFence

IN_A_HANDLER = "in-a-handler"
BEFORE_THE_COMMIT = "before-the-commit"
AFTER_THE_COMMIT = "after-the-commit"
MOMENTS = (IN_A_HANDLER, BEFORE_THE_COMMIT, AFTER_THE_COMMIT)

GIDS = tuple(f"g-{number}" for number in range(5))


def die() -> None:
    """Ends this process without a word to anybody."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_around_the_lists_commit(rows: type[SqliteRows] | type[PostgresRows], moment: str) -> None:
    """Puts a failpoint before and after the commit of more than one visit."""
    commit = rows.commit

    async def commit_and_die(self: Rows, changes: Changes) -> None:
        of_the_list = sum(len(entries) for entries in changes.values()) > 1
        if of_the_list and moment == BEFORE_THE_COMMIT:
            die()
        await commit(self, changes)  # type: ignore[arg-type]  # of the class whose method it is
        if of_the_list and moment == AFTER_THE_COMMIT:
            die()

    rows.commit = commit_and_die  # type: ignore[method-assign]  # the failpoint


async def make(url: str, moment: str) -> None:
    """Makes the list; does not come to its end."""
    for rows in (SqliteRows, PostgresRows):
        die_around_the_lists_commit(rows, moment)
    fence = SharingFence(url)

    def moves(gid: str) -> Body:
        writes = effect(fence, gid)

        async def body(record: Record | None) -> Result:
            await add(fence, "a", -1)
            await add(fence, "b", 1)
            if moment == IN_A_HANDLER and gid == GIDS[-2]:
                die()
            return await writes(record)

        return body

    await in_one_list(fence, [(of(gid), moves(gid)) for gid in GIDS])


if __name__ == "__main__":
    asyncio.run(make(*sys.argv[1:]))
