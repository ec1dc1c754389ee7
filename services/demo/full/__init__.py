"""The demo on the whole stack: orders and transfers through RabbitMQ, Redis and PostgreSQL, and the same proof.

`make demo-full`, or `python -m services.demo --rabbitmq URL --redis URL --postgres URL`. Read `_story.py` first.
"""

from __future__ import annotations

from functools import partial

from services.demo._run import Demo
from services.demo._transfers import COUNT
from services.demo.full._proof import FullFacts
from services.demo.full._shop import ORDERS
from services.demo.full._stack import Outages, Stack
from services.demo.full._story import FullStory

__all__ = ["Outages", "Stack", "demo_on"]

LIMIT = 150.0
"""Seconds that the demo may take; most of them are RabbitMQ's start."""


def demo_on(stack: Stack) -> Demo[FullFacts]:
    """The demo on these servers."""
    return Demo("transfers and orders", COUNT + ORDERS, LIMIT, partial(FullStory, stack))
