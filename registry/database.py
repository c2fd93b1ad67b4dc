"""The database behind the registry. SQLAlchemy's errors end here.

SQLite by default, in WAL mode so that readers never wait; any other SQLAlchemy URL works.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from registry.errors import DiskFull, RegistryUnavailable
from registry.tables import Table

BUSY_MILLISECONDS = 30_000


class Database:
    """Connections for many threads and processes. Close it when done."""

    def __init__(self, url: str) -> None:
        """Connect lazily to `url`; raises RegistryUnavailable where it is no database's URL."""
        try:
            parsed = make_url(url)
            self._engine = create_engine(parsed, pool_pre_ping=parsed.drivername[:6] != "sqlite")
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise RegistryUnavailable(
                f"LORIKEET_DATABASE_URL is not usable: {error}",
                remedy="write an SQLAlchemy URL, for one postgresql+psycopg://user@host/lorikeet",
            ) from error
        self.url: URL = parsed
        self._sqlite = parsed.get_backend_name() == "sqlite"
        if self._sqlite:
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._writing = self._engine.execution_options(writing=True)

    def create_tables(self) -> None:
        """Make the tables that are not there. The caller holds the registry's lock."""
        with _translated(self.url), self._engine.connect() as connection:
            if self._sqlite:
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA journal_mode = WAL")
            Table.metadata.create_all(connection)
            connection.commit()

    def has_tables(self) -> bool:
        """Whether every table is there."""
        with _translated(self.url):
            return set(Table.metadata.tables) <= set(inspect(self._engine).get_table_names())

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database."""
        with _translated(self.url), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that is alone in writing; committed at the end, rolled back on an error."""
        with _translated(self.url), Session(self._writing) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's own BEGIN decides, see below
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its lock at once: upgrading a reader's would fail when another has written."""
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def _translated(url: URL) -> Iterator[None]:
    where = url.render_as_string(hide_password=True)
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        reason = str(getattr(error, "orig", error))
        if "disk is full" in reason or "disk I/O error" in reason:
            raise DiskFull(
                f"the database {where} cannot be written: {reason}",
                needed=1 << 20,
                remedy="free some space on its disk",
            ) from error
        raise RegistryUnavailable(
            f"the database {where} cannot be used: {reason}",
            remedy="check that it is reachable, whole and writable (LORIKEET_HOME, "
            "LORIKEET_DATABASE_URL)",
        ) from error
    except SQLAlchemyError as error:
        raise RegistryUnavailable(
            f"the database {where} cannot be used: {error}",
            remedy="check that no other program changed its tables",
        ) from error
