"""The log's schema, revision by revision: an Alembic environment, run by `tcc_server.log.migrate`."""
