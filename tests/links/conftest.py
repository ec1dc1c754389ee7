"""Both kinds of links, for the contract suites of Caller and Courier."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.links.participant import Links, links


@pytest.fixture(params=["grpc", "local"], name="links")
async def _links(request: pytest.FixtureRequest) -> AsyncIterator[Links]:
    async with links(request.param) as made:
        yield made
