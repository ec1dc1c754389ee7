"""The bank's table. The fence keeps its own beside it, in the same database."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Integer, MetaData, String, Table

METADATA = MetaData()

ACCOUNTS = Table(
    "accounts",
    METADATA,
    Column("account", String(64), primary_key=True),
    Column("opened_with", Integer, nullable=False),
    Column("available", Integer, CheckConstraint("available >= 0"), nullable=False),
    Column("reserved", Integer, CheckConstraint("reserved >= 0"), nullable=False),
)
"""One row an account, in cents: what can be spent, and what is kept aside for debits under way."""
