"""The database behind the registry. SQLAlchemy's errors end here.

SQLite by default, in WAL mode so that readers never wait; PostgreSQL where `LORIKEET_DATABASE_URL`
names one. On both there is one writer at a time, and a reader sees one state.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, func, select
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    NoSuchModuleError,
    SQLAlchemyError,
    TimeoutError,
)
from sqlalchemy.orm import Session

from registry import migrations
from registry.errors import DiskFull, RegistryUnavailable, UsageError
from registry.mounts import check_local, mounts

BUSY_MILLISECONDS = 30_000
"""How long a writer waits for the one before it."""

HANGING_MILLISECONDS = 60_000
"""How long PostgreSQL waits for a writer that has begun and says nothing more: then it has lost."""

WRITERS_LOCK = 0x6C6F72696B656574
"""PostgreSQL's advisory lock that writers take, "lorikeet" in ASCII."""

# libpq's: a machine that has gone is noticed within ten seconds, also by who waits for an answer.
_CONNECTING: dict[str, Any] = {
    "application_name": "lorikeet",
    "connect_timeout": 5,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class Database:
    """Connections for many threads and processes. Close it when done."""

    def __init__(self, url: str) -> None:
        """Connect lazily to `url`.

        Raises RegistryUnavailable where it is no database's URL, or SQLite's on a disk of others.
        """
        self.url, self._engine = _engine(url)
        self._sqlite = self.url.get_backend_name() == "sqlite"
        if self._sqlite:
            if self.url.database:
                check_local(Path(self.url.database), mounts())
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
            self._reading = self._engine
            self._writing = self._engine.execution_options(writing=True)
        else:
            event.listen(self._engine, "connect", _set_up_postgresql)
            event.listen(self._engine, "begin", _begin_postgresql)
            self._reading = self._engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            # What is read behind the lock has to be what the writer before has committed.
            self._writing = self._engine.execution_options(
                isolation_level="READ COMMITTED", writing=True
            )

    def is_current(self) -> bool:
        """Whether the tables are those of this version of Lorikeet. A few milliseconds."""
        with _translated(self.url), self._engine.connect() as connection:
            try:
                return migrations.revision(connection) == migrations.HEAD
            except DBAPIError as error:
                if _is_missing_table(error):
                    return False
                raise

    def prepare(self) -> None:
        """Make the tables, or bring them to what this version uses: whole or not at all.

        One process does, others wait. Raises RegistryUnavailable, for one where a later version of
        Lorikeet made them.
        """
        with _translated(self.url):
            if self._sqlite:
                with self._engine.connect() as connection:
                    driver: Any = connection.connection.driver_connection
                    driver.execute("PRAGMA journal_mode = WAL")
            with self._writing.begin() as connection:
                migrations.upgrade(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database."""
        with _translated(self.url), self._reading.connect() as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session for reading only, that sees one state of the database."""
        with _translated(self.url), Session(self._reading) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that is alone in writing; committed at the end, rolled back on an error."""
        with _translated(self.url), Session(self._writing) as session, session.begin():
            yield session

    def now(self, session: Session | Connection) -> datetime:
        """The time in UTC by the clock that every process on this database goes by."""
        if self._sqlite:
            return datetime.now(UTC)
        at: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return at.astimezone(UTC)

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()


def _engine(text: str) -> tuple[URL, Engine]:
    try:
        url = make_url(text)
        if url.drivername in {"postgres", "postgresql"}:
            url = url.set(drivername="postgresql+psycopg")
        if url.drivername == "postgresql+psycopg":
            arguments = {key: it for key, it in _CONNECTING.items() if key not in url.query}
            return url, create_engine(url, pool_pre_ping=True, connect_args=arguments)
        if url.drivername in {"sqlite", "sqlite+pysqlite"}:
            return url, create_engine(url)
        reason = f"{url.drivername} is neither SQLite nor PostgreSQL"
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise _unusable(str(error)) from error
    raise _unusable(reason)


def _unusable(reason: str) -> RegistryUnavailable:
    return RegistryUnavailable(
        f"LORIKEET_DATABASE_URL is not usable: {reason}",
        remedy="write postgresql://user:password@host/database, or leave it out for SQLite",
    )


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's own BEGIN decides, see below
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its lock at once: upgrading a reader's would fail when another has written."""
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _set_up_postgresql(connection: Any, _record: Any) -> None:
    """No writer keeps the others waiting for long, not even one whose machine has gone."""
    connection.execute(f"SET lock_timeout = {BUSY_MILLISECONDS}")
    connection.execute(f"SET idle_in_transaction_session_timeout = {HANGING_MILLISECONDS}")
    for name in ("keepalives_idle", "keepalives_interval", "keepalives_count"):
        connection.execute(f"SET tcp_{name} = {_CONNECTING[name]}")
    connection.commit()


def _begin_postgresql(connection: Connection) -> None:
    """Writers stand in line, as on SQLite. The lock ends with the transaction or its connection."""
    if connection.get_execution_options().get("writing", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})")


def _is_missing_table(error: DBAPIError) -> bool:
    missing = getattr(error.orig, "sqlstate", None) == "42P01"
    return missing or str(error.orig).startswith("no such table")


def _is_full(error: BaseException, reason: str) -> bool:
    full = getattr(getattr(error, "orig", error), "sqlstate", None) == "53100"
    return full or "disk is full" in reason or "disk I/O error" in reason


@contextmanager
def _translated(url: URL) -> Iterator[None]:
    where = url.render_as_string(hide_password=True)
    try:
        yield
    except (DataError, UnicodeEncodeError) as error:
        reason = str(getattr(error, "orig", error))
        raise UsageError(
            f"the database cannot keep that value: {reason}",
            remedy="leave out control characters, and shorten it if it is long",
        ) from error
    except (DBAPIError, sqlite3.Error) as error:
        reason = str(getattr(error, "orig", error))
        if _is_full(error, reason):
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
    except TimeoutError as error:
        raise RegistryUnavailable(
            f"every connection to the database {where} was in use for too long",
            remedy="try again; if it stays so, the database is too slow for its load",
        ) from error
    except SQLAlchemyError as error:
        raise RegistryUnavailable(
            f"the database {where} cannot be used: {error}",
            remedy="check that no other program changed its tables",
        ) from error
