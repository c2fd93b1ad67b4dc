"""How the tables came to be what they are: Alembic's revisions, one file each in `versions/`.

A change to the tables needs a new revision, `HEAD`, and nothing else: `Registry.open` brings older
databases up to it. A database without any tables gets them as they are declared; a test holds the
two ways together.
"""

import threading
from pathlib import Path

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    insert,
    inspect,
    select,
)

from registry.errors import RegistryUnavailable

HEAD = "0004"

_REVISION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32)),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
REVISION = select(_REVISION.c.version_num).scalar_subquery()
"""The revision that the tables have, to be selected with something else."""

# Alembic keeps what it works on in its modules.
_ONE_AT_A_TIME = threading.Lock()


def revision(connection: Connection) -> str | None:
    """The revision that the tables have; fails as the database does where there are none."""
    return connection.scalar(select(_REVISION.c.version_num))


def upgrade(connection: Connection) -> None:
    """Bring the tables to `HEAD`, in the transaction that the caller has begun and ends.

    Tables from before there were revisions keep what is in them. Raises RegistryUnavailable where
    the revision is one that this version of Lorikeet does not know.
    """
    from registry.finetuning import tables
    from registry.migrations import change_triggers
    from registry.tables import Table as Declared

    assert tables.JobRow.metadata is Declared.metadata  # imported for what it declares
    there = set(inspect(connection).get_table_names())
    if not there & {_REVISION.name, *Declared.metadata.tables}:
        Declared.metadata.create_all(connection)
        change_triggers.create(connection)
        _REVISION.create(connection)
        connection.execute(insert(_REVISION).values(version_num=HEAD))
        return
    at = revision(connection) if _REVISION.name in there else None
    if at != HEAD:
        with _ONE_AT_A_TIME:
            _run_alembic(connection, at)


def _run_alembic(connection: Connection, at: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if at is not None and at not in known:
        raise RegistryUnavailable(
            f"the database has tables of revision {at}; this version of Lorikeet knows them up to"
            f" {HEAD}",
            remedy="upgrade lorikeet here too, or give it a data folder and a database of its own"
            " (LORIKEET_HOME and LORIKEET_DATABASE_URL)",
        )
    command.upgrade(config, "head")
