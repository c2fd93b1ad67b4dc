"""The registry in memory: the same answers, of what has changed nothing but that is read."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from registry import (
    Base,
    Mirror,
    Reference,
    Registry,
    UnknownAdapter,
    mirror,
)
from registry.database import Database

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    with Registry.open() as opened:
        yield opened


@pytest.fixture
def copy(registry: Registry) -> Mirror:
    return registry.mirror()


@pytest.fixture
def names_read(copy: Mirror, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The adapters that each `read` asks the catalogue for; None: all."""
    asked: list[Any] = []
    read = copy._catalogue.read

    def listening(rows: Any, names: Any = None, unreadable: Any = None) -> Any:
        if unreadable is not None:  # a mirror asks
            asked.append(names)
        return read(rows, names, unreadable)

    monkeypatch.setattr(copy._catalogue, "read", listening)
    return asked


def update(copy: Mirror) -> Mirror:
    copy.take(copy.read())
    return copy


def same(copy: Mirror, registry: Registry) -> None:
    assert list(copy.versions()) == registry.list()
    assert copy.models(None) == registry.models.list(None)


def test_it_says_what_the_registry_says(
    copy: Mirror, registry: Registry, base: Base, adapters: list[Path]
) -> None:
    a, b, c, d = adapters
    steps: list[Callable[[], Any]] = [
        lambda: registry.publish(a, "opl", base=base),
        lambda: registry.publish(b, "opl", base=base),
        lambda: registry.promote("opl", 1, force="a test"),
        lambda: registry.promote("opl", 2, canary=30, force="a test"),
        lambda: registry.quarantine("opl", 2, "NaN"),
        lambda: registry.release("opl", 2),
        lambda: registry.record("opl@2", evaluation={"n": 1}),
        lambda: registry.publish(c, "other", base=base, tenant="acme"),
        lambda: registry.rollback("opl"),
        lambda: registry.promote("opl", 2, force="a test"),
        lambda: registry.publish(d, "opl", base=base),
        lambda: registry.remove("opl", 1),
        lambda: registry.remove("other", 1),
    ]
    for step in steps:
        step()
        same(update(copy), registry)
        for reference in ("opl", "opl@1", "opl@2", "opl@prod", "opl@latest", "other"):
            for draw in (0.0, 0.29, 0.3, 1.0):
                try:
                    expected = registry.get(reference, draw=draw)
                except UnknownAdapter:
                    with pytest.raises(UnknownAdapter):
                        copy.get(reference, draw=draw)
                else:
                    assert copy.get(reference, draw=draw) == expected
        same(update(registry.mirror()), registry)


@pytest.mark.parametrize("text", ["", "No Name", "a@b@c", "a@", "ft:base:acme::x", "\ud800", "a\0"])
def test_what_names_nothing_is_an_unknown_adapter(copy: Mirror, text: str) -> None:
    with pytest.raises(UnknownAdapter):
        update(copy).get(text)


def test_only_what_has_changed_is_read(
    copy: Mirror, registry: Registry, base: Base, adapters: list[Path], names_read: list[Any]
) -> None:
    for name, adapter in zip("abc", adapters, strict=False):
        registry.publish(adapter, name, base=base)
    update(copy)
    assert names_read == [None]
    update(copy)
    registry.keys.create("acme")
    update(copy)
    assert names_read == [None]
    registry.promote("b", 1, "staging")
    update(copy)
    assert names_read == [None, ["b"]]
    same(copy, registry)


def test_a_look_costs_the_same_however_much_there_is(
    copy: Mirror, registry: Registry, base: Base, adapters: list[Path]
) -> None:
    statements: list[str] = []
    event.listen(
        copy._database._engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_: statements.append(statement),
    )
    update(copy).read()
    empty, statements[:] = len(statements), []
    for name, adapter in zip("abcd", adapters, strict=True):
        registry.publish(adapter, name, base=base)
        registry.keys.create("acme")
    update(copy)
    del statements[:]
    update(copy)
    assert 0 < len(statements) <= 2 < empty


def test_many_changes_at_once_are_read_with_all_the_rest(
    copy: Mirror,
    registry: Registry,
    base: Base,
    adapters: list[Path],
    names_read: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirror, "MOST_ONE_BY_ONE", 2)
    update(copy)
    for name, adapter in zip("abc", adapters, strict=False):
        registry.publish(adapter, name, base=base)
    update(copy)
    assert names_read == [None, None]
    same(copy, registry)


def test_a_database_that_was_set_back_is_read_anew(
    copy: Mirror, registry: Registry, base: Base, adapters: list[Path]
) -> None:
    registry.publish(adapters[0], "opl", base=base)
    registry.publish(adapters[1], "opl", base=base)
    update(copy)
    with registry._database.writing() as session:  # as a backup would have it
        session.execute(text("DELETE FROM versions WHERE number = 2"))
        session.execute(text("UPDATE changes SET number = number - 2"))
    same(update(copy), registry)
    assert copy.get("opl").number == 1


def test_what_others_write_is_seen(
    copy: Mirror, registry: Registry, base: Base, adapters: list[Path], database_url: str
) -> None:
    """A Lorikeet from before there were changes, and a person with an SQL prompt."""
    key, secret = registry.keys.create("acme")
    other_key, other_secret = registry.keys.create("acme")
    for adapter in adapters[:2]:
        registry.publish(adapter, "opl", base=base)
    registry.promote("opl", 1, force="a test")
    update(copy)
    other = Database(database_url)
    statements = {
        "UPDATE aliases SET number = 2": lambda: copy.get("opl").number == 2,
        "INSERT INTO canaries VALUES ('opl', 'prod', 1, 50)": lambda: (
            copy.get("opl", draw=0.1).number == 1
        ),
        "DELETE FROM canaries": lambda: copy.get("opl", draw=0.1).number == 2,
        "INSERT INTO quarantines VALUES ('opl', 2, 'NaN', CURRENT_TIMESTAMP)": lambda: (
            copy.get("opl").quarantine == "NaN"
        ),
        f"UPDATE keys SET revoked_at = created_at WHERE id = '{key.id}'": lambda: (
            copy.key(secret) is None
        ),
        f"DELETE FROM keys WHERE id = '{other_key.id}'": lambda: copy.key(other_secret) is None,
    }
    for statement, seen in statements.items():
        assert not seen(), statement
        with other.writing() as session:
            session.execute(text(statement))
        update(copy)
        assert seen(), statement
    other.close()


def test_an_adapter_of_a_later_version_hides_no_other(
    copy: Mirror,
    registry: Registry,
    base: Base,
    adapters: list[Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Such a row is there while servers are upgraded one by one: what was known of it stays."""
    registry.publish(adapters[0], "opl", base=base)
    known = update(copy).get("opl")
    with registry._database.writing() as session:
        session.execute(text("UPDATE versions SET manifest = '{\"schema_version\": 2}'"))
        session.execute(text("INSERT INTO recordings VALUES ('opl', 1, 1, 1)"))
    registry.publish(adapters[1], "other", base=base)
    update(copy)
    assert copy.get("other").number == 1
    assert copy.get("opl") == known
    assert "opl" in caplog.text
    fresh = Registry.open()  # of one that starts now nothing is known
    started = update(fresh.mirror())
    assert started.get("other").number == 1
    with pytest.raises(UnknownAdapter):
        started.get("opl")
    fresh.close()


def test_keys(copy: Mirror, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not update(copy).has_keys
    soon = datetime.now(UTC) + timedelta(hours=1)
    key, secret = registry.keys.create("acme", adapters=["opl"], rpm=3)
    ends, ending = registry.keys.create("acme", expires_at=soon)
    assert copy.key(secret) is None
    update(copy)
    assert copy.has_keys
    assert (copy.key(secret), copy.key(ending)) == (key, ends)
    for wrong in (secret[:-1] + "!", secret[:16] + "A" * 43, "lk-" + "0" * 12 + secret[15:], ""):
        assert copy.key(wrong) is None
    registry.keys.revoke(key.id)
    assert copy.key(secret) == key
    update(copy)
    assert copy.key(secret) is None
    assert copy.has_keys
    monkeypatch.setattr(mirror.time, "monotonic", lambda: copy._at + 3601)
    assert copy.key(ending) is None  # its clock goes on without the database


def test_keys_that_are_all_gone_leave_the_server_closed(copy: Mirror, registry: Registry) -> None:
    """A database that was made anew, or is being filled from a backup."""
    _, secret = registry.keys.create("acme")
    assert update(copy).key(secret) is not None
    with registry._database.writing() as session:
        session.execute(text("DELETE FROM keys"))
        session.execute(text("DELETE FROM changes"))
    copy.doubt()
    update(copy)
    assert copy.key(secret) is None
    assert copy.has_keys


def test_a_database_that_was_set_back_gives_its_ids_anew(
    copy: Mirror, registry: Registry, base: Base, adapters: list[Path]
) -> None:
    """As a standby that had not heard of the last writes: as many have come since."""
    registry.publish(adapters[0], "opl", base=base)
    with registry._database.reading() as rows:
        row = rows.execute(text("SELECT id FROM versions")).scalar_one()
        number = rows.execute(text("SELECT max(number) FROM changes")).scalar_one()
    assert update(copy).get("opl").name == "opl"
    with registry._database.writing() as session:
        for table in ("versions", "adapters", "changes"):
            session.execute(text(f"DELETE FROM {table}"))
    registry.publish(adapters[1], "support", base=base)
    with registry._database.writing() as session:
        session.execute(text(f"UPDATE versions SET id = {row}"))
        session.execute(text("DELETE FROM changes"))
        session.execute(text(f"INSERT INTO changes VALUES ('support', {number})"))
    copy.doubt()
    update(copy)
    assert copy.get("support").name == "support"
    with pytest.raises(UnknownAdapter):
        copy.get("opl")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_its_clock_is_the_databases(
    copy: Mirror, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr(Database, "now", lambda *_: later)
    assert timedelta(0) <= update(copy).now - later < timedelta(minutes=1)


def test_nothing_is_known_before_the_first_take(copy: Mirror) -> None:
    assert not copy.read_once
    with pytest.raises(UnknownAdapter):
        copy.get(Reference("opl"))
    assert update(copy).read_once
