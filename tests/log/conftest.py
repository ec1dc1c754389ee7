"""The implementations under the contract, each behind the same few moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tcc_server.log.memory import MemoryLog, MemoryStore
from tcc_server.log.postgres import PostgresLog
from tcc_server.log.seam import Log
from tcc_server.log.sqlite import SqliteLog


class Place:
    """Where logs of one kind keep their rows. One replica lives at a time; `restart` is the next one's start."""

    def __init__(self) -> None:
        self.log: Log | None = None

    def make(self, replica: str) -> Log:
        raise NotImplementedError

    async def start(self, replica: str) -> Log:
        self.log = self.make(replica)
        await self.log.open()
        return self.log

    async def restart(self, replica: str) -> Log:
        await self.stop()
        return await self.start(replica)

    async def stop(self) -> None:
        if self.log is not None:
            await self.log.close()


class InMemory(Place):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()

    def make(self, replica: str) -> Log:
        return MemoryLog(self.store, replica=replica)


class OnSqlite(Place):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def make(self, replica: str) -> Log:
        return SqliteLog(self.path, replica=replica)


class OnPostgres(Place):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def make(self, replica: str) -> Log:
        return PostgresLog(self.url, replica=replica, auto_migrate=True)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    place: Place
    match request.param:
        case "memory":
            place = InMemory()
        case "sqlite":
            place = OnSqlite(tmp_path / "tcc.db")
        case _:
            place = OnPostgres(request.getfixturevalue("postgres_server").database())
    yield place
    await place.stop()


@pytest.fixture
async def log(place: Place) -> Log:
    return await place.start("first")
