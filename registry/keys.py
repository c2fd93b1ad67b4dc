"""API keys: who may ask for which adapters, and how much. Only a digest of each is kept."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from registry.database import Database
from registry.errors import BadReference, UnknownKey, UsageError
from registry.reference import check_name
from registry.tables import KeyRow

_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SECRET = re.compile(r"lk-(?P<id>[0-9a-f]{12})-[A-Za-z0-9_-]{43}")
_NOBODY = "0" * 64
_MOST = 2**31 - 1  # what a database's integer holds


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

    @property
    def active(self) -> bool:
        """Whether it opens anything now: neither revoked nor expired."""
        expired = self.expires_at is not None and self.expires_at <= datetime.now(UTC)
        return self.revoked_at is None and not expired

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
            "rpm": self.rpm,
            "tpm": self.tpm,
            "concurrency": self.concurrency,
            "admin": self.admin,
            "active": self.active,
            **{name: at.isoformat() if at else None for name, at in times.items()},
        }


class Keys:
    """Makes, finds and revokes API keys. For many threads and processes."""

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
    ) -> tuple[Key, str]:
        """A new key and its secret, which is not kept: show it to whoever asked.

        An empty `adapters` leaves the base model alone. Raises BadReference for a tenant or adapter
        that is no name, UsageError for a limit below 1 or an expiry that has passed.
        """
        if not _TENANT.fullmatch(tenant):
            raise BadReference(
                f"{tenant[:80]!r} cannot name a tenant",
                remedy="use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or "
                "digit",
            )
        for what, limit in (("rpm", rpm), ("tpm", tpm), ("concurrency", concurrency)):
            if limit is not None and not 1 <= limit <= _MOST:
                raise UsageError(
                    f"{what} is {limit}: a limit is at least 1, at most {_MOST}",
                    remedy=f"leave {what} out for no limit",
                )
        if expires_at is not None:
            expires_at = expires_at.astimezone(UTC)
            if expires_at <= datetime.now(UTC):
                raise UsageError(
                    f"{expires_at:%Y-%m-%d %H:%M} UTC has passed", remedy="name a later time"
                )
        key_id = secrets.token_hex(6)
        secret = f"lk-{key_id}-{secrets.token_urlsafe(32)}"
        row = KeyRow(
            id=key_id,
            sha256=_digest(secret),
            tenant=tenant,
            adapters=None if adapters is None else sorted({check_name(name) for name in adapters}),
            rpm=rpm,
            tpm=tpm,
            concurrency=concurrency,
            admin=admin,
            created_at=datetime.now(UTC),
            expires_at=expires_at,
        )
        with self._database.writing() as session:
            session.add(row)
            session.flush()
            key = _key(row)
        return key, secret

    def list(self) -> list[Key]:
        """Every key that was ever made, the oldest first."""
        with self._database.reading() as rows:
            found = rows.execute(select(KeyRow).order_by(KeyRow.created_at, KeyRow.id))
            return [_key(row) for row in found]

    def revoke(self, key_id: str) -> Key:
        """End a key, for good; a second time changes nothing. Raises UnknownKey."""
        with self._database.writing() as session:
            row = session.get(KeyRow, key_id)
            if row is None:
                raise UnknownKey(
                    f"there is no key {key_id[:80]!r}", remedy="lorikeet keys list shows the ids"
                )
            row.revoked_at = row.revoked_at or datetime.now(UTC)
            return _key(row)

    def find(self, secret: str) -> Key | None:
        """The active key of that secret, None where there is none; an unknown id takes as long."""
        match = _SECRET.fullmatch(secret)
        if match is None:
            return None
        with self._database.reading() as rows:
            row = rows.execute(select(KeyRow).where(KeyRow.id == match["id"])).one_or_none()
        same = hmac.compare_digest(_digest(secret), row.sha256 if row else _NOBODY)
        if row is None or not same:
            return None
        key = _key(row)
        return key if key.active else None

    def exist(self) -> bool:
        """Whether any key was ever made; a revoked one counts."""
        with self._database.reading() as rows:
            return rows.scalar(select(KeyRow.id).limit(1)) is not None


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
