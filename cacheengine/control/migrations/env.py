"""Alembic's way in: it runs this file for each command. The connection, and its transaction, are `migrate`'s."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"], transactional_ddl=True, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
