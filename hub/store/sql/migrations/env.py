"""Alembic's entry point: runs the steps on the connection that ``hub.store.sql.migrate`` hands over."""

from __future__ import annotations

from alembic import context

from hub.store.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
