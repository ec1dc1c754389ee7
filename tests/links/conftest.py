"""All kinds of links, for the contract suites of Caller and Courier."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.links.participant import Links, links
from tests.rabbitmq.broker import forget_queues


@pytest.fixture(params=["lists", "known", "calls", "local"], name="links")
async def _links(request: pytest.FixtureRequest) -> AsyncIterator[Links]:
    url = None
    if request.param == "rabbitmq":
        url = request.getfixturevalue("rabbitmq_server").url
        await forget_queues(url, "told", "other")
    async with links(request.param, url) as made:
        yield made
