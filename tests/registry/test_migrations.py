"""Tables get to this version whole or not at all, whatever they were before; nothing is lost."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from postgres_cluster import Postgres
from sqlalchemy import Connection, inspect, select, text

from registry import Base, Registry, RegistrySettings, RegistryUnavailable, migrations
from registry.database import Database
from registry.finetuning import tables as _declared  # noqa: F401
from registry.tables import Table

REPOSITORY = Path(__file__).parents[2]
BEFORE = (Path(__file__).parent / "before_revisions.sql").read_text()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A database without any tables, which the registry of `home` is to use."""
    if request.param == "sqlite":
        yield RegistrySettings().url
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create()
    monkeypatch.setenv("LORIKEET_DATABASE_URL", url)
    yield url
    server.drop(url)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url)
    yield made
    made.close()


def make_old_tables(database: Database, without: tuple[str, ...] = ()) -> None:
    """Those of before there were revisions; of a version still older, `without` some."""
    statements = BEFORE
    if not database._sqlite:
        statements = statements.replace("DATETIME", "TIMESTAMP WITH TIME ZONE")
        statements = statements.replace("    id INTEGER NOT NULL", "    id SERIAL NOT NULL")
    with database.writing() as session:
        for statement in statements.split(";"):
            if statement.strip():
                session.execute(text(statement))
        for table in without:
            session.execute(text(f"DROP TABLE {table}"))


def tables(database: Database) -> set[str]:
    with database.reading() as rows:
        return set(inspect(rows).get_table_names())


OLD = {line.split()[2] for line in BEFORE.splitlines() if line.startswith("CREATE TABLE")}
ALL = {*Table.metadata.tables, "alembic_version"}


def differences(database: Database) -> list[Any]:
    with database.reading() as rows:
        return list(compare_metadata(MigrationContext.configure(rows), Table.metadata))


def test_the_head_is_the_last_of_one_line() -> None:
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_heads() == [migrations.HEAD]
    assert script.get_bases() == ["0001"]


def test_tables_made_at_once_are_as_declared(database: Database) -> None:
    assert not database.is_current()
    database.prepare()
    assert database.is_current()
    assert tables(database) == ALL
    assert differences(database) == []
    database.prepare()


def test_tables_made_by_the_revisions_are_as_declared(database: Database) -> None:
    with database._writing.begin() as connection:
        migrations._run_alembic(connection, None)
    assert database.is_current()
    assert tables(database) == ALL
    assert differences(database) == []


def test_a_difference_would_be_seen(database: Database) -> None:
    database.prepare()
    with database.writing() as session:
        session.execute(text("DROP INDEX jobs_by_status"))
        session.execute(text("ALTER TABLE adapters DROP COLUMN tenant"))
        session.execute(text("DROP TABLE canaries"))
    assert {change[0] for change in differences(database)} == {
        "add_index",
        "add_column",
        "add_table",
    }


def contents(registry: Registry) -> tuple[Any, ...]:
    """All that the registry tells."""
    return (
        registry.list(),
        registry.aliases("titulares"),
        registry.keys.list(),
        [registry.forced(version.reference) for version in registry.list()],
        registry.get("titulares", draw=0.1),
        registry.get("titulares", draw=0.9),
    )


def test_what_was_there_before_is_there_after(
    database: Database, home: Path, base: Base, adapters: list[Path], tmp_path: Path
) -> None:
    other = RegistrySettings(home=home, database_url=f"sqlite:///{tmp_path / 'other.db'}")
    with Registry.open(other) as registry:
        for adapter in adapters:
            registry.publish(adapter, "titulares", base=base)
        registry.promote("titulares", 1, force="a test")
        registry.promote("titulares", 3, force="another")
        registry.promote("titulares", 4, canary=20, force="a third")
        registry.remove("titulares", 1)
        registry.quarantine("titulares", 2, "NaN")
        registry.record("titulares@3", evaluation={"n": 1})
        _, secret = registry.keys.create("acme", adapters=["titulares"], rpm=3)
        revoked, _ = registry.keys.create("zeta", admin=True)
        registry.keys.revoke(revoked.id)
        before = contents(registry)
        make_old_tables(database)
        with registry._database.reading() as rows, database.writing() as session:
            copy(rows, session.connection())
    with Registry.open() as registry:
        assert contents(registry) == before
        assert registry.keys.find(secret) == registry.keys.list()[0]
        assert registry.publish(adapters[0], "titulares", base=base).number == 5
        registry.promote("titulares", 5, force="it goes on")
    assert database.is_current()
    assert differences(database) == []


def copy(rows: Connection, into: Connection) -> None:
    """All rows, into tables that have not every column; numbers of rows are given out anew."""
    for table in Table.metadata.sorted_tables:
        if table.name in OLD:
            there = {column["name"] for column in inspect(into).get_columns(table.name)}
            columns = [
                column
                for column in table.columns
                if column.name in there and column is not table.autoincrement_column
            ]
            order = table.primary_key.columns
            for row in rows.execute(select(*columns).order_by(*order)):
                into.execute(table.insert().values(row._asdict()))


def test_what_was_never_made_is_made(
    database: Database, base: Base, adapter: Path, url: str
) -> None:
    """By a version of Lorikeet that had no keys yet, no canaries, no quarantine, no gate."""
    new = ("keys", "canaries", "quarantines", "recordings", "forced_promotions")
    make_old_tables(database, without=new)
    with Registry.open() as registry:
        registry.publish(adapter, "titulares", base=base)
        registry.promote("titulares", 1, force="a test")
        registry.quarantine("titulares", 1, "NaN")
        registry.keys.create("acme")
    assert tables(database) == ALL
    assert differences(database) == []


def test_tables_of_a_later_version_are_left_alone(database: Database) -> None:
    database.prepare()
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0815'"))
        session.execute(text("DROP TABLE canaries"))
    with pytest.raises(RegistryUnavailable, match="revision 0815") as caught:
        Registry.open()
    assert "upgrade lorikeet" in str(caught.value.remedy)
    assert tables(database) == ALL - {"canaries"}


def test_tables_of_another_application_are_left_alone(database: Database) -> None:
    with database.writing() as session:
        session.execute(text("CREATE TABLE files (name TEXT)"))
        session.execute(text("INSERT INTO files VALUES ('theirs')"))
    with pytest.raises(RegistryUnavailable, match="already exists"):
        Registry.open()
    assert tables(database) == {"files"}
    with database.reading() as rows:
        assert rows.scalar(text("SELECT name FROM files")) == "theirs"


UPGRADE = """
import os, signal, sys
from sqlalchemy import event
from registry.database import Database

def die(connection, cursor, statement, *_):
    if "CREATE INDEX ix_job_events_job_id" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

database = Database(sys.argv[1])
event.listen(database._engine, "before_cursor_execute", die)
database.prepare()
"""


def test_killed_at_the_last_statement(database: Database, url: str) -> None:
    make_old_tables(database)
    with database.writing() as session:
        session.execute(text("INSERT INTO adapters VALUES ('titulares', 3)"))
    killed = subprocess.run([sys.executable, "-c", UPGRADE, url], cwd=REPOSITORY, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert tables(database) == OLD
    database.prepare()
    assert differences(database) == []
    with database.reading() as rows:
        assert rows.execute(text("SELECT * FROM adapters")).all() == [("titulares", 3, None)]


@pytest.mark.parametrize("old", [True, False])
def test_many_begin_at_once(database: Database, url: str, old: bool) -> None:
    """Each by its own connection, as those of other machines would be."""
    if old:
        make_old_tables(database)
    others = [Database(url) for _ in range(4)]
    with ThreadPoolExecutor(len(others)) as pool:
        for _ in pool.map(Database.prepare, others):
            pass
    for other in others:
        assert other.is_current()
        other.close()
    assert differences(database) == []


def test_alembic_is_only_imported_to_migrate(home: Path) -> None:
    script = (
        "import sys; from registry import Registry;"
        "Registry.open().close(); Registry.open().close(); print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False", done.stderr
