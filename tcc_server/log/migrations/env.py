"""Alembic's entry: runs on the connection that `tcc_server.log.migrate` hands over, and touches no logging."""

from __future__ import annotations

from alembic import context

from tcc_server.log.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
