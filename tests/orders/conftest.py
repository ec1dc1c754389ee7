"""A shop for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.orders.shop import Shop, open_shop


@pytest.fixture(params=["sqlite", "postgresql"])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop whose orders are in each kind of database in turn."""
    postgres = request.param == "postgresql"
    database = request.getfixturevalue("postgres_server").database() if postgres else str(tmp_path / "orders.db")
    async with open_shop(tmp_path, database) as opened:
        yield opened
