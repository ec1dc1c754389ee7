"""The bank's table. The fence keeps its own beside it, in the same database."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, MetaData, String, Table

METADATA = MetaData()

ACCOUNTS = Table(
    "accounts",
    METADATA,
    Column("account", String(64), primary_key=True),
    Column("opened_with", BigInteger, nullable=False),
    Column("available", BigInteger, CheckConstraint("available >= 0"), nullable=False),
    Column("reserved", BigInteger, CheckConstraint("reserved >= 0"), nullable=False),
)
"""One row an account, in cents: what can be spent, and what is kept aside for debits under way."""
