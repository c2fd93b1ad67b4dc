"""The registry's tables. What is a blob stays in the file system, beside its manifest."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


def now() -> datetime:
    """The time that a row is entered at, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, always with its zone, UTC: SQLite keeps none, PostgreSQL gives the session's."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        assert value is None or value.tzinfo is not None
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        at: datetime = value
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


class Table(DeclarativeBase):
    """What every table is declared on."""


class AdapterRow(Table):
    """A name that was published under, and the last number given out: numbers never come again."""

    __tablename__ = "adapters"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    last_number: Mapped[int] = mapped_column(default=0)
    tenant: Mapped[str | None] = mapped_column(String(64), default=None)
    """Whose it is: other tenants do not see it. None: everybody's."""


class VersionRow(Table):
    """One version. A removed one stays, with `removed_at`: its number and path are used up."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("name", "number"),
        Index("versions_by_content", "name", "digest"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(ForeignKey("adapters.name"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(String(71))
    base_digest: Mapped[str] = mapped_column(String(71))
    folder: Mapped[str] = mapped_column(String(160))
    """Relative to the folder of adapters: `<name>/<number>-<digest12>`."""
    manifest: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    removed_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class AliasRow(Table):
    """Where an alias of an adapter points. `latest` is not kept: it is the highest number."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(ForeignKey("adapters.name"), primary_key=True)
    alias: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int]


class PromotionRow(Table):
    """One move of an alias. A rollback marks the promotion it takes back as `undone_at`."""

    __tablename__ = "promotions"
    __table_args__ = (Index("promotions_by_alias", "name", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(ForeignKey("adapters.name"))
    alias: Mapped[str] = mapped_column(String(32))
    number: Mapped[int]
    replaced: Mapped[int | None] = mapped_column(default=None)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    undone_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class CanaryRow(Table):
    """The version that takes `percent` of an alias's requests; at most one for an alias."""

    __tablename__ = "canaries"

    name: Mapped[str] = mapped_column(ForeignKey("adapters.name"), primary_key=True)
    alias: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int]
    percent: Mapped[int]


class QuarantineRow(Table):
    """A version that must not be served, and why; until somebody releases it."""

    __tablename__ = "quarantines"

    name: Mapped[str] = mapped_column(ForeignKey("adapters.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class RecordingRow(Table):
    """How often a version's manifest was added to since it was published.

    `filed` is the revision that its file has: behind `revision` only while somebody writes it, or
    until a registry is opened where nobody could, or several did at once.
    """

    __tablename__ = "recordings"

    name: Mapped[str] = mapped_column(ForeignKey("adapters.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    revision: Mapped[int]
    filed: Mapped[int] = mapped_column(default=0)


class ForcedPromotionRow(Table):
    """A promotion that the gate would have refused, and the reason that somebody gave."""

    __tablename__ = "forced_promotions"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(ForeignKey("adapters.name"))
    number: Mapped[int]
    alias: Mapped[str] = mapped_column(String(32))
    refusal: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class PendingObjectRow(Table):
    """An object in the shared store that no row tells of yet, or no more, since that time.

    `wanted`: somebody is about to write it, and its row after that.
    """

    __tablename__ = "pending_objects"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    wanted: Mapped[bool]


class KeyRow(Table):
    """An API key. Of the secret only its SHA-256 is kept; a revoked key stays."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    tenant: Mapped[str] = mapped_column(String(64))
    adapters: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True), default=None)
    rpm: Mapped[int | None] = mapped_column(default=None)
    tpm: Mapped[int | None] = mapped_column(default=None)
    concurrency: Mapped[int | None] = mapped_column(default=None)
    admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class ChangeRow(Table):
    """When an adapter (its name) or a key (`key:` and its id) changed last, in the order of writes.

    Triggers keep these rows; nothing else writes them.
    """

    __tablename__ = "changes"

    subject: Mapped[str] = mapped_column(String(80), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, unique=True)
