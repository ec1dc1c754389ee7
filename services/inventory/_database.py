"""The warehouse's table. The fence keeps its own beside it, in the same database."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, MetaData, String, Table

METADATA = MetaData()

STOCK = Table(
    "stock",
    METADATA,
    Column("sku", String(64), primary_key=True),
    Column("put_in", BigInteger, nullable=False),
    Column("available", BigInteger, CheckConstraint("available >= 0"), nullable=False),
    Column("reserved", BigInteger, CheckConstraint("reserved >= 0"), nullable=False),
)
"""One row a sku, in pieces: what came in, what can be sold, and what is set aside for transactions under way."""
