"""Installations for the tests of the spine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.spine.installation import Bank, Installation, config, running, two_banks
from tests.spine.processes import Nursery


@pytest.fixture
async def banks(tmp_path: Path) -> AsyncIterator[tuple[Bank, Bank]]:
    async with two_banks(tmp_path) as banks:
        yield banks


@pytest.fixture
async def installation(tmp_path: Path, banks: tuple[Bank, Bank]) -> AsyncIterator[Installation]:
    async with running(config(tmp_path, *banks)) as (app, manager):
        yield Installation(*banks, manager, app.listen)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery
