"""The database's seam, on both of them: its errors come out as ours, writers wait in line."""

import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres_cluster import REUSED, Postgres
from sqlalchemy import select, text

from registry import (
    DiskFull,
    LorikeetError,
    Registry,
    RegistrySettings,
    RegistryUnavailable,
    UsageError,
    database,
)
from registry.database import WRITERS_LOCK, Database
from registry.tables import AdapterRow, KeyRow, QuarantineRow

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
COUNT = text("SELECT count(*) FROM adapters")


@pytest.fixture
def store(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    made.prepare()
    yield made
    made.close()


def count(store: Database) -> Any:
    with store.reading() as rows:
        return rows.scalar(COUNT)


@SQLITE
def test_a_full_disk_is_told(store: Database) -> None:
    def fill() -> None:
        with store.writing() as session:
            session.execute(text("PRAGMA max_page_count = 1"))
            session.add_all(AdapterRow(name=f"{i:060}") for i in range(2000))

    with pytest.raises(DiskFull) as caught:
        fill()
    assert caught.value.remedy
    assert count(store) == 0


@POSTGRESQL
def test_a_full_disk_of_the_server_is_told(store: Database) -> None:
    full = "RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'"

    def fill() -> None:
        with store.writing() as session:
            session.add(AdapterRow(name="a"))
            session.flush()
            session.execute(text(f"DO $$ BEGIN {full}; END $$"))

    with pytest.raises(DiskFull, match="could not extend"):
        fill()
    assert count(store) == 0


@SQLITE
def test_a_database_held_by_another_is_told(
    store: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MILLISECONDS", 20)
    mine = Database(database_url)
    holder = sqlite3.connect(str(store.url.database))
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(RegistryUnavailable, match="locked"), mine.writing() as session:
        session.get(AdapterRow, "a")
    assert count(mine) == 0  # readers do not wait for writers
    holder.close()
    mine.close()


@POSTGRESQL
def test_a_server_held_by_another_is_told(
    store: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MILLISECONDS", 20)
    mine = Database(database_url)
    with psycopg.connect(database_url) as holder:
        holder.execute(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})")
        with pytest.raises(RegistryUnavailable, match="lock timeout"), mine.writing() as session:
            session.get(AdapterRow, "a")
        assert count(mine) == 0
    with mine.writing() as session:
        session.add(AdapterRow(name="a"))
    assert count(mine) == 1
    mine.close()


def test_an_error_inside_leaves_nothing(store: Database) -> None:
    def fail() -> None:
        with store.writing() as session:
            session.add(AdapterRow(name="a"))
            session.flush()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert count(store) == 0


def test_read_and_write_never_loses_an_update(store: Database, database_url: str) -> None:
    """Each thread reads, then writes what it read plus one: no upgrade fails, none is lost."""
    others = [store, Database(database_url)]
    with store.writing() as session:
        session.add(AdapterRow(name="a", last_number=0))

    def work(mine: Database) -> None:
        for _ in range(10):
            with mine.writing() as session:
                row = session.get(AdapterRow, "a")
                assert row is not None
                row.last_number += 1

    threads = [threading.Thread(target=work, args=(others[i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.reading() as rows:
        assert rows.scalar(text("SELECT last_number FROM adapters")) == 40
    others[1].close()


def test_two_that_make_the_same_row_make_it_once(store: Database) -> None:
    """What is not there yet cannot be locked: being alone in writing has to do."""
    made = []

    def work() -> None:
        with store.writing() as session:
            if session.get(AdapterRow, "a") is None:
                session.add(AdapterRow(name="a"))
                made.append(threading.current_thread().name)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == count(store) == 1


@pytest.mark.parametrize("how", ["reading", "session"])
def test_a_reader_sees_one_state(store: Database, how: str) -> None:
    reading = getattr(store, how)
    with reading() as rows:
        assert rows.scalar(COUNT) == 0
        with store.writing() as session:
            session.add(AdapterRow(name="a"))
        assert count(store) == 1
        assert rows.scalar(COUNT) == 0
    with reading() as rows:
        assert rows.scalar(COUNT) == 1


def test_missing_tables_are_told(tmp_path: Path) -> None:
    store = Database(f"sqlite:///{tmp_path / 'registry.db'}")
    assert not store.is_current()
    with pytest.raises(RegistryUnavailable, match="no such table"), store.writing() as session:
        session.add(AdapterRow(name="a"))
    store.prepare()
    assert store.is_current()
    store.close()


def test_times_come_back_as_they_were_given(store: Database) -> None:
    at = datetime(2026, 7, 1, 23, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5)))
    with store.writing() as session:
        session.add(KeyRow(id="0" * 12, sha256="", tenant="a", created_at=at, expires_at=None))
    with store.reading() as rows:
        found, never = rows.execute(select(KeyRow.created_at, KeyRow.expires_at)).one()
        earlier = select(KeyRow.id).where(KeyRow.created_at < at + timedelta(microseconds=1))
        later = select(KeyRow.id).where(KeyRow.created_at > at)
        assert (len(rows.execute(earlier).all()), rows.execute(later).all()) == (1, [])
    assert (found, found.tzinfo, never) == (at, UTC, None)


def test_now_is_in_utc_and_goes_on_within_a_transaction(store: Database) -> None:
    with store.writing() as session:
        first, second = store.now(session), store.now(session)
    assert first.tzinfo is UTC
    assert first <= second
    assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)
    if not store._sqlite:
        assert first < second


@POSTGRESQL
def test_now_is_the_servers(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers on machines whose clocks differ agree on when a lease has run out."""

    class Skewed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(database, "datetime", Skewed)
    with store.session() as session:
        assert abs(store.now(session) - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_value_that_cannot_be_kept_is_the_callers_mistake(store: Database) -> None:
    values = ["\ud800"] if store._sqlite else ["\ud800", "a\0b"]
    with store.writing() as session:
        session.add(AdapterRow(name="a"))
    for value in values:
        with (
            pytest.raises(UsageError, match="cannot keep") as caught,
            store.writing() as session,
        ):
            session.add(QuarantineRow(name="a", number=1, reason=value))
        assert caught.value.remedy
    with store.reading() as rows:
        assert rows.scalar(text("SELECT count(*) FROM quarantines")) == 0


@POSTGRESQL
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_restarted_server_is_used_again(
    store: Database, postgres: Postgres, how: signal.Signals
) -> None:
    with store.writing() as session:
        session.add(AdapterRow(name="a"))
    postgres.stop(how)
    try:
        for call in (store.reading, store.writing, store.session):
            with pytest.raises(RegistryUnavailable) as caught, call() as rows:
                rows.scalar(COUNT)
            assert caught.value.remedy
        with pytest.raises(RegistryUnavailable):
            store.is_current()
    finally:
        postgres.start()
    assert count(store) == 1
    with store.writing() as session:
        session.add(AdapterRow(name="b"))
    assert count(store) == 2


@POSTGRESQL
def test_a_server_restarted_between_two_calls_is_not_noticed(
    store: Database, postgres: Postgres
) -> None:
    assert count(store) == 0
    postgres.stop()
    postgres.start()
    with store.writing() as session:
        session.add(AdapterRow(name="a"))
    assert count(store) == 1


@POSTGRESQL
def test_a_connection_lost_while_writing_leaves_nothing(
    store: Database, postgres: Postgres
) -> None:
    def work() -> None:
        with store.writing() as session:
            session.add(AdapterRow(name="a"))
            session.flush()
            postgres.disconnect()

    with pytest.raises(RegistryUnavailable):
        work()
    assert count(store) == 0
    with store.writing() as session:  # the lock went with the connection
        session.add(AdapterRow(name="a"))
    assert count(store) == 1


@POSTGRESQL
def test_a_writer_that_hangs_loses_its_turn(
    store: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was suspended, or whose machine has gone: what it began is undone."""
    monkeypatch.setattr(database, "HANGING_MILLISECONDS", 50)
    hanging = Database(database_url)

    def hang() -> None:
        with hanging.writing() as session:
            session.add(AdapterRow(name="a"))
            session.flush()
            with store.writing() as other:  # waits until the one above is given up
                other.add(AdapterRow(name="b"))

    with pytest.raises(RegistryUnavailable):
        hang()
    with store.reading() as rows:
        assert rows.scalars(select(AdapterRow.name)).all() == ["b"]
    hanging.close()


@POSTGRESQL
def test_more_threads_than_connections_wait_their_turn(store: Database) -> None:
    def work(number: int) -> None:
        with store.writing() as session:
            session.add(AdapterRow(name=f"a{number}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(store) == 40


def test_connections_that_are_all_in_use_are_told(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store._engine.pool, "_timeout", 0.05)
    with ExitStack() as held:
        for _ in range(15):
            held.enter_context(store.reading())
        with pytest.raises(RegistryUnavailable, match="was in use"), store.writing() as session:
            session.scalar(COUNT)
    assert count(store) == 0


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_is_understood(postgres: Postgres, scheme: str) -> None:
    url = postgres.url(REUSED).replace("postgresql", scheme, 1)
    store = Database(url + "&application_name=mine")
    with store.reading() as rows:
        assert rows.scalar(text("SHOW application_name")) == "mine"
    store.close()


def test_a_broken_file_is_one_clear_error(home: Path) -> None:
    (home / "registry.db").write_bytes(b"this is not a database, it is a text" * 100)
    with pytest.raises(RegistryUnavailable) as caught:
        Registry.open()
    assert caught.value.remedy


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "nosuch://x",
        "mysql://host/x",
        "postgresql+asyncpg://host/x",
        "postgresql+psycopg2://host/x",
        "sqlite:////nowhere/at/all.db",
        "postgresql://127.0.0.1:1/x",
    ],
)
def test_an_unusable_url_is_one_clear_error(home: Path, url: str) -> None:
    with pytest.raises(RegistryUnavailable) as caught:
        Registry.open(RegistrySettings(home=home, database_url=url))
    assert caught.value.remedy


@pytest.mark.parametrize(
    "url", ["sqlite://user:secret@host/x.db", "postgres://user:secret@127.0.0.1:1/x"]
)
def test_a_password_is_not_shown(home: Path, url: str) -> None:
    with pytest.raises(LorikeetError) as caught:
        Registry.open(RegistrySettings(home=home, database_url=url))
    assert "secret" not in caught.value.message + str(caught.value.remedy)
