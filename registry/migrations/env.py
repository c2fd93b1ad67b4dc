"""Alembic runs this for each command: on the caller's connection, within its transaction."""

from alembic import context

from registry.finetuning import tables as tables
from registry.tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata
)
context.run_migrations()
