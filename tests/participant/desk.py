"""A lock that is asked for many keys at once, and a batchable service: for calls that go together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.empty_pb2 import Empty

import tcc
from services.accounts.v1 import accounts_pb2 as pb
from tcc.fence import Listed, SqlFence, Verdict
from tcc.lock import Busy, Held
from tests.participant.scripted import Scripted


class Batchable(Scripted):
    """The scripted service, each of its debit's methods batchable."""

    @tcc.batchable
    async def TryDebit(self, request: pb.DebitRequest, context: Any) -> pb.DebitReply:
        return await super().TryDebit(request, context)

    @tcc.batchable
    async def ConfirmDebit(self, request: pb.DebitRequest, context: Any) -> Empty:
        return await super().ConfirmDebit(request, context)

    @tcc.batchable
    async def CancelDebit(self, request: pb.DebitRequest, context: Any) -> Empty:
        return await super().CancelDebit(request, context)


class CountingFence(SqlFence):
    """Keeps the lengths of its lists."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.lists: list[int] = []

    async def visit_many(self, listed: Sequence[Listed]) -> Sequence[Verdict | Exception]:
        self.lists.append(len(listed))
        return await super().visit_many(listed)


class Desk:
    """Notes what it is asked.

    Attributes:
        held: keys, while they are held.
        elsewhere: what others hold: seconds that are left, by key.
        taken: how many keys each word asked for.
        answers: it does; while it is cleared, no list gets an answer.
        answers_one: the same for keys that are asked for singly.
    """

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.elsewhere: dict[str, float] = {}
        self.taken: list[int] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.answers_one = asyncio.Event()
        self.answers_one.set()

    async def acquire(self, key: str, ttl: float) -> Held | Busy:
        self.taken.append(1)
        await self.answers_one.wait()
        return self._take(key)

    async def acquire_all(self, keys: Sequence[str], ttl: float) -> Sequence[Held | Busy]:
        self.taken.append(len(keys))
        await self.answers.wait()
        return [self._take(key) for key in keys]

    def release_all(self, locks: Iterable[Held]) -> None:
        for one in locks:
            assert isinstance(one, _Key)
            self.held.remove(one.key)

    async def close(self) -> None:
        """Nothing is open."""

    def _take(self, key: str) -> Held | Busy:
        if key in self.elsewhere or key in self.held:
            return Busy(self.elsewhere.get(key, 1.0))
        self.held.add(key)
        return _Key(self, key)


class _Key:
    def __init__(self, desk: Desk, key: str) -> None:
        self._desk = desk
        self.key = key

    async def release(self) -> None:
        self._desk.release_all((self,))
