"""API keys: only a digest is kept, what is given out is found, what has ended is not."""

import hmac
import re
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import BadReference, Key, Keys, Registry, UnknownKey, UsageError, keys
from registry.database import Database

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture
def store(home: Path) -> Any:
    with Registry.open() as registry:
        yield registry.keys


def test_a_key_is_found_by_its_secret(store: Keys) -> None:
    key, secret = store.create("news", adapters=["b", "a", "b"], rpm=60, tpm=9000, concurrency=4)
    assert re.fullmatch(r"lk-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", secret)
    assert secret[3:15] == key.id
    assert store.find(secret) == key
    assert (key.tenant, key.adapters, key.admin) == ("news", frozenset("ab"), False)
    assert (key.rpm, key.tpm, key.concurrency) == (60, 9000, 4)
    assert abs(datetime.now(UTC) - key.created_at) < timedelta(minutes=1)
    assert (key.expires_at, key.revoked_at, key.active) == (None, None, True)


def test_what_is_left_out_is_not_limited(store: Keys) -> None:
    key, secret = store.create("news")
    assert (key.adapters, key.rpm, key.tpm, key.concurrency) == (None, None, None, None)
    nothing, _ = store.create("news", adapters=[], admin=True)
    assert (nothing.adapters, nothing.admin) == (frozenset(), True)
    assert store.list() == [key, nothing]
    assert store.find(secret) == key


def test_limits_change_and_what_is_not_named_stays(store: Keys) -> None:
    key, secret = store.create("news", rpm=60, tpm=9000)
    changed = store.limit(key.id, {"rpm": None, "concurrency": 2})
    assert (changed.rpm, changed.tpm, changed.concurrency) == (None, 9000, 2)
    assert store.find(secret) == changed
    for limit in (0, -1, 2**31):
        with pytest.raises(UsageError, match="at least 1"):
            store.limit(key.id, {"tpm": limit})
    with pytest.raises(UnknownKey):
        store.limit("000000000000", {"rpm": 1})
    assert store.find(secret) == changed


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_secret_is_nowhere_on_disk(store: Keys, home: Path) -> None:
    _, secret = store.create("news")
    for file in home.glob("registry.db*"):
        assert secret.encode() not in file.read_bytes()
        assert secret[16:].encode() not in file.read_bytes()
    with sqlite3.connect(home / "registry.db") as rows:
        (digest,) = rows.execute("SELECT sha256 FROM keys").fetchone()
    assert re.fullmatch(r"[0-9a-f]{64}", digest)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s[:-1] + ("A" if s[-1] != "A" else "B"),
        lambda s: s[:16] + "A" * 43,
        lambda s: s.upper(),
        lambda s: s + "A",
        lambda s: s[:-1],
        lambda s: " " + s,
        lambda s: s + "\n",
        lambda s: s[3:],
        lambda s: "lk-" + "0" * 12 + s[15:],
        lambda s: "",
        lambda s: "é" * len(s),
    ],
)
def test_another_secret_finds_nothing(store: Keys, change: Any) -> None:
    store.create("other")
    _, secret = store.create("news")
    assert store.find(change(secret)) is None


@given(st.text(max_size=80) | st.from_regex(r"lk-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", fullmatch=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_opens_a_store_or_breaks_it(store: Keys, secret: str) -> None:
    assert store.find(secret) is None


def test_an_unknown_id_is_compared_as_a_known_one_is(
    store: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = store.create("news")
    compared: list[tuple[int, int]] = []

    def compare(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(keys, "hmac", type("", (), {"compare_digest": staticmethod(compare)}))
    assert store.find(secret)
    assert store.find("lk-" + "0" * 12 + "-" + "A" * 43) is None
    assert compared == [(64, 64), (64, 64)]


def test_a_revoked_key_opens_nothing_and_stays_in_the_list(store: Keys) -> None:
    key, secret = store.create("news")
    other, other_secret = store.create("news")
    revoked = store.revoke(key.id)
    assert revoked.revoked_at is not None
    assert not revoked.active
    assert store.find(secret) is None
    assert store.find(other_secret) == other
    assert store.revoke(key.id) == revoked
    assert store.list() == [revoked, other]
    with pytest.raises(UnknownKey) as caught:
        store.revoke("0" * 12)
    assert caught.value.remedy


def test_the_store_remembers_that_it_had_keys(store: Keys) -> None:
    assert not store.exist()
    key, _ = store.create("news")
    assert store.exist()
    store.revoke(key.id)
    assert store.exist()


class Later(datetime):
    """An hour ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + timedelta(hours=1)


def test_a_key_expires(store: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = timezone(timedelta(hours=5))
    end = datetime.now(zone) + timedelta(hours=1)
    key, secret = store.create("news", expires_at=end)
    assert key.expires_at == end
    assert key.expires_at.tzinfo is UTC
    assert store.find(secret) == key
    monkeypatch.setattr(Database, "now", lambda *_: Later.now(UTC))
    assert store.find(secret) is None
    assert store.list() == [key]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_key_expires_by_the_clock_of_the_database(
    store: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is off neither ends a key nor keeps it, nor refuses to make one."""
    monkeypatch.setattr(keys, "datetime", Later)
    _, secret = store.create("news", expires_at=datetime.now(UTC) + timedelta(minutes=30))
    assert store.find(secret) is not None
    monkeypatch.setattr(Database, "now", lambda *_: Later.now(UTC))
    assert store.find(secret) is None
    with pytest.raises(UsageError, match="has passed"):
        store.create("news", expires_at=datetime.now(UTC) + timedelta(minutes=30))


BAD: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"tenant": ""}, BadReference),
    ({"tenant": "A b"}, BadReference),
    ({"tenant": "x" * 65}, BadReference),
    ({"tenant": "-x"}, BadReference),
    ({"adapters": ["a", "../b"]}, BadReference),
    ({"adapters": [""]}, BadReference),
    ({"adapters": ["text"]}, BadReference),
    ({"rpm": 0}, UsageError),
    ({"tpm": -1}, UsageError),
    ({"concurrency": 0}, UsageError),
    ({"tpm": 2**31}, UsageError),
    ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, UsageError),
]


@pytest.mark.parametrize(("change", "error"), BAD, ids=[str(next(iter(c))) for c, _ in BAD])
def test_a_key_that_makes_no_sense_is_not_made(
    store: Keys, change: dict[str, Any], error: type[UsageError]
) -> None:
    arguments = {"tenant": "news"} | change
    with pytest.raises(error) as caught:
        store.create(arguments.pop("tenant"), **arguments)
    assert caught.value.remedy  # type: ignore[attr-defined]
    assert store.list() == []


def test_a_key_shows_no_secret(store: Keys) -> None:
    key, secret = store.create("news")
    assert isinstance(key, Key)
    assert secret[16:] not in repr(key)


def test_other_processes_see_a_key_at_once(store: Keys) -> None:
    with Registry.open() as other:
        key, secret = other.keys.create("news")
        assert store.find(secret) == key
        store.revoke(key.id)
        assert other.keys.find(secret) is None


SECRET = "lk-0123456789ab-" + "Az09_-" * 7 + "x"


def test_a_secret_that_was_made_elsewhere_is_a_key_and_made_once(store: Keys) -> None:
    first, secret = store.create("ops", admin=True, secret=SECRET)
    again, _ = store.create("ops", admin=True, secret=SECRET)
    assert secret == SECRET
    assert again == first
    assert store.find(SECRET) == first
    assert len(store.list()) == 1


def test_a_secret_with_the_id_of_another_key_is_refused(store: Keys) -> None:
    store.create("ops", secret=SECRET)
    with pytest.raises(UsageError, match="with another secret"):
        store.create("ops", secret=SECRET[:-1] + "y")
    assert store.find(SECRET) is not None


def test_a_secret_whose_key_has_ended_revives_nothing(
    store: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    key, _ = store.create("ops", secret=SECRET, expires_at=ends)
    with monkeypatch.context() as patched:
        later = ends + timedelta(hours=1)
        patched.setattr(Database, "now", lambda *_: later)
        assert store.create("ops", secret=SECRET, expires_at=ends) == (key, SECRET)
        assert store.find(SECRET) is None
    revoked = store.revoke(key.id)
    assert store.create("ops", secret=SECRET, expires_at=ends) == (revoked, SECRET)
    assert store.find(SECRET) is None


@pytest.mark.parametrize("secret", ["", "password", SECRET + "z", SECRET.upper(), f"{SECRET}\n"])
def test_a_secret_that_is_no_key_is_refused(store: Keys, secret: str) -> None:
    with pytest.raises(UsageError, match="no key of ours"):
        store.create("ops", secret=secret)
    assert not store.exist()
