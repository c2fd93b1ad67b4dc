"""API keys: who may ask for which adapters, and how much. Only a digest of each is kept."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database import Database
from registry.errors import BadReference, UnknownKey, UsageError
from registry.reference import check_name
from registry.tables import KeyRow

_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SECRET = re.compile(r"lk-(?P<id>[0-9a-f]{12})-[A-Za-z0-9_-]{43}")
_NOBODY = "0" * 64
_MOST = 2**31 - 1  # what a database's integer holds
LIMITS = ("rpm", "tpm", "concurrency")
"""What a key can be limited to."""


@dataclass(frozen=True, slots=True)
class Key:
    """One API key, without its secret. Times are in UTC.

    `adapters` are the names that it reaches, None for all. `rpm` (requests a minute), `tpm` (tokens
    a minute) and `concurrency` (requests at once) are None where there is no limit.
    """

    id: str
    tenant: str
    adapters: frozenset[str] | None
    rpm: int | None
    tpm: int | None
    concurrency: int | None
    admin: bool
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def is_active(self, now: datetime) -> bool:
        """Whether it opens anything at that time: neither revoked nor expired."""
        expired = self.expires_at is not None and self.expires_at <= now
        return self.revoked_at is None and not expired

    @property
    def active(self) -> bool:
        """Whether it opens anything now, by this machine's clock; a server goes by another one."""
        return self.is_active(datetime.now(UTC))

    @property
    def limits(self) -> dict[str, int | None]:
        """Each of LIMITS, None where there is none."""
        return {what: getattr(self, what) for what in LIMITS}

    def summary(self) -> dict[str, Any]:
        """For JSON; times in ISO 8601."""
        times = {
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "revoked_at": self.revoked_at,
        }
        return {
            "id": self.id,
            "tenant": self.tenant,
            "adapters": None if self.adapters is None else sorted(self.adapters),
            **self.limits,
            "admin": self.admin,
            "active": self.active,
            **{name: at.isoformat() if at else None for name, at in times.items()},
        }


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key with the SHA-256 of its secret, in lower-case hexadecimal digits."""

    key: Key
    sha256: str


class Keys:
    """Makes, finds, limits and revokes API keys. For many threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        tenant: str,
        *,
        adapters: Iterable[str] | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        concurrency: int | None = None,
        admin: bool = False,
        expires_at: datetime | None = None,
        secret: str | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, which is not kept: show it to whoever asked.

        An empty `adapters` leaves the base model alone. A `secret` that was made elsewhere becomes
        a key the first time; afterwards that key is returned as it is, also one that has ended.
        Raises BadReference for a tenant or adapter that is no name, UsageError for a limit below 1,
        an expiry that has passed or a secret that cannot be one.
        """
        if not _TENANT.fullmatch(tenant):
            raise BadReference(
                f"{tenant[:80]!r} cannot name a tenant",
                remedy="use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or "
                "digit",
            )
        limits = {"rpm": rpm, "tpm": tpm, "concurrency": concurrency}
        _check_limits(limits)
        if expires_at is not None:
            expires_at = expires_at.astimezone(UTC)
        if secret is None:
            secret = f"lk-{secrets.token_hex(6)}-{secrets.token_urlsafe(32)}"
        key_id = _id_of(secret)
        row = KeyRow(
            id=key_id,
            sha256=_digest(secret),
            tenant=tenant,
            adapters=None if adapters is None else sorted({check_name(name) for name in adapters}),
            **limits,
            admin=admin,
            created_at=datetime.now(UTC),
            expires_at=expires_at,
        )
        with self._database.writing() as session:
            there = session.get(KeyRow, key_id)
            if there is None:
                if expires_at is not None and expires_at <= self._database.now(session):
                    raise UsageError(
                        f"{expires_at:%Y-%m-%d %H:%M} UTC has passed", remedy="name a later time"
                    )
                session.add(row)
                session.flush()
            key = _key(there or row)
            same = there is None or hmac.compare_digest(there.sha256, row.sha256)
        if not same:
            raise UsageError(
                f"there is a key {key_id} already, with another secret",
                remedy="make a new one: lk-, 12 of 0-9a-f, -, 43 random of A-Z, a-z, 0-9, _ and -",
            )
        return key, secret

    def list(self) -> list[Key]:
        """Every key that was ever made, the oldest first."""
        with self._database.reading() as rows:
            found = rows.execute(select(KeyRow).order_by(KeyRow.created_at, KeyRow.id))
            return [_key(row) for row in found]

    def limit(self, key_id: str, limits: Mapping[str, int | None]) -> Key:
        """Change some of a key's LIMITS, None for no limit; the others stay.

        Raises UnknownKey, UsageError for a limit below 1.
        """
        _check_limits(limits)
        with self._database.writing() as session:
            row = _row(session, key_id)
            for what in LIMITS:
                setattr(row, what, limits.get(what, getattr(row, what)))
            return _key(row)

    def revoke(self, key_id: str) -> Key:
        """End a key, for good; a second time changes nothing. Raises UnknownKey."""
        with self._database.writing() as session:
            row = _row(session, key_id)
            row.revoked_at = row.revoked_at or datetime.now(UTC)
            return _key(row)

    def find(self, secret: str) -> Key | None:
        """The active key of that secret, None where there is none; an unknown id takes as long."""
        with self._database.reading() as rows:

            def read(key_id: str) -> StoredKey | None:
                row = rows.execute(select(KeyRow).where(KeyRow.id == key_id)).one_or_none()
                return None if row is None else stored(row)

            key = opened_by(secret, read)
            return key if key is not None and key.is_active(self._database.now(rows)) else None

    def exist(self) -> bool:
        """Whether any key was ever made; a revoked one counts."""
        with self._database.reading() as rows:
            return rows.scalar(select(KeyRow.id).limit(1)) is not None


def opened_by(secret: str, find: Callable[[str], StoredKey | None]) -> Key | None:
    """The key of that secret, ended or not, among those that `find` knows by their ids.

    An unknown id takes as long as a wrong secret.
    """
    match = _SECRET.fullmatch(secret)
    if match is None:
        return None
    found = find(match["id"])
    same = hmac.compare_digest(_digest(secret), found.sha256 if found else _NOBODY)
    return found.key if found is not None and same else None


def stored(row: Any) -> StoredKey:
    """From a KeyRow or a row of its columns."""
    return StoredKey(_key(row), row.sha256)


def _row(session: Session, key_id: str) -> KeyRow:
    row = session.get(KeyRow, key_id)
    if row is None:
        raise UnknownKey(
            f"there is no key {key_id[:80]!r}", remedy="lorikeet keys list shows the ids"
        )
    return row


def _check_limits(limits: Mapping[str, int | None]) -> None:
    for what, limit in limits.items():
        if limit is not None and not 1 <= limit <= _MOST:
            raise UsageError(
                f"{what} is {limit}: a limit is at least 1, at most {_MOST}",
                remedy=f"leave {what} out for no limit",
            )


def _id_of(secret: str) -> str:
    match = _SECRET.fullmatch(secret)
    if match is None:
        raise UsageError(
            "that is no key of ours",
            remedy="write lk-, 12 of 0-9a-f, -, and 43 random of A-Z, a-z, 0-9, _ and -",
        )
    return match["id"]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Any) -> Key:
    """From a KeyRow or a row of its columns."""
    return Key(
        id=row.id,
        tenant=row.tenant,
        adapters=None if row.adapters is None else frozenset(row.adapters),
        rpm=row.rpm,
        tpm=row.tpm,
        concurrency=row.concurrency,
        admin=row.admin,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
