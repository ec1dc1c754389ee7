"""What `Manager.execute` gives back: a transaction that was decided Confirm, and the replies of its Tries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar, cast

import grpc

from tcc.client._plan import PlannedCall
from tcc.client._views import BranchView, branch_view, state_of
from tcc.errors import ManagerError
from tcc.v1 import transaction_pb2

RepliesT = TypeVar("RepliesT", bound=tuple[Any, ...], covariant=True)


class Executed(Generic[RepliesT]):
    """A transaction that was decided Confirm.

    What it holds is read when it is first asked for: a reply that cannot be read is no failure of the transaction.

    Attributes:
        gid: the transaction's id.
        state: CONFIRMING or CONFIRMED.
    """

    def __init__(self, message: transaction_pb2.Transaction, calls: Sequence[PlannedCall[Any, Any]]) -> None:
        self.gid = message.gid
        self.state = state_of(message)
        self._message = message
        self._calls = calls
        self._replies: RepliesT | None = None

    def __repr__(self) -> str:
        return f"<transaction {self.gid} {self.state.name}>"

    @property
    def replies(self) -> RepliesT:
        """The Tries' replies, in the order of the calls.

        Raises:
            ManagerError: NOT_FOUND, where this answer repeats one so old that the manager keeps only the decision.
        """
        if self._replies is None:
            self._replies = self._read()
        return self._replies

    def _read(self) -> RepliesT:
        branches = self._message.branches
        if len(branches) != len(self._calls):
            raise ManagerError(
                grpc.StatusCode.NOT_FOUND,
                f"transaction {self.gid} is confirmed, but so long ago that its replies are no longer kept",
            )
        replies = [call.branch.reply(branch.try_reply) for call, branch in zip(self._calls, branches, strict=True)]
        return cast("RepliesT", tuple(replies))

    @cached_property
    def branches(self) -> tuple[BranchView, ...]:
        """The branches as the manager saw them when it answered, in the order of the calls."""
        return tuple(map(branch_view, self._message.branches))
