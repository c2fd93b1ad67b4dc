"""The database's seam: its errors come out as ours, writers wait for each other."""

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from registry import DiskFull, RegistryUnavailable, database
from registry.database import Database
from registry.tables import AdapterRow


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


def make(file: Path) -> Database:
    made = Database(f"sqlite:///{file}")
    made.create_tables()
    return made


def test_a_full_disk_is_told(file: Path) -> None:
    store = make(file)

    def fill() -> None:
        with store.writing() as session:
            session.execute(text("PRAGMA max_page_count = 1"))
            session.add_all(AdapterRow(name=f"{i:060}") for i in range(2000))

    with pytest.raises(DiskFull) as caught:
        fill()
    assert caught.value.remedy
    with store.reading() as rows:
        assert rows.scalar(text("SELECT count(*) FROM adapters")) == 0
    store.close()


def test_a_database_held_by_another_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(file).close()
    monkeypatch.setattr(database, "BUSY_MILLISECONDS", 20)
    store = Database(f"sqlite:///{file}")
    holder = sqlite3.connect(file)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(RegistryUnavailable, match="locked"), store.writing() as session:
        session.get(AdapterRow, "a")
    with store.reading() as rows:  # readers do not wait for writers
        assert rows.scalar(text("SELECT count(*) FROM adapters")) == 0
    holder.close()
    store.close()


def test_an_error_inside_leaves_nothing(file: Path) -> None:
    store = make(file)

    def fail() -> None:
        with store.writing() as session:
            session.add(AdapterRow(name="a"))
            session.flush()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with store.reading() as rows:
        assert rows.scalar(text("SELECT count(*) FROM adapters")) == 0
    store.close()


def test_read_and_write_never_loses_an_update(file: Path) -> None:
    """Each thread reads, then writes what it read plus one: no upgrade fails, none is lost."""
    store = make(file)
    with store.writing() as session:
        session.add(AdapterRow(name="a", last_number=0))

    def count() -> None:
        for _ in range(10):
            with store.writing() as session:
                row = session.get(AdapterRow, "a")
                assert row is not None
                row.last_number += 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.reading() as rows:
        assert rows.scalar(text("SELECT last_number FROM adapters")) == 40
    store.close()


def test_missing_tables_are_told(file: Path) -> None:
    store = Database(f"sqlite:///{file}")
    assert not store.has_tables()
    with pytest.raises(RegistryUnavailable, match="no such table"), store.writing() as session:
        session.add(AdapterRow(name="a"))
    store.create_tables()
    assert store.has_tables()
    store.close()
