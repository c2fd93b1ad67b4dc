"""Which versions there are and where the aliases point: the rows, without the files."""

import difflib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import (
    CompoundSelect,
    Connection,
    and_,
    bindparam,
    func,
    literal,
    null,
    select,
    union_all,
)
from sqlalchemy.orm import Session

from registry.aliases import CANARY_OF_ALIAS, Alias
from registry.database import Database
from registry.errors import AliasRefused, BadReference, RegistryUnavailable, UnknownAdapter
from registry.manifest import Manifest
from registry.reference import LATEST, PROD, Reference
from registry.tables import AdapterRow, AliasRow, CanaryRow, QuarantineRow, RecordingRow, VersionRow
from registry.version import Version

SHORT_DIGEST = len("sha256:") + 12


class Catalogue:
    """Reads and writes the rows of versions and aliases. For many threads and processes."""

    def __init__(self, database: Database, root: Path) -> None:
        """`root` is the folder that the versions' folders are relative to."""
        self._database = database
        self._root = root
        # By row, each with the revision of its manifest: read once, and again once it was added to.
        self._known: dict[int, tuple[int, Version]] = {}

    def get(self, reference: Reference, draw: float = 1.0) -> Version:
        """The version that `reference` means now; `draw` as for Registry.get.

        Raises UnknownAdapter.
        """
        name = reference.name
        with self._database.reading() as rows:
            aliases, meant = [], {}
            for alias, at, canary, percent, held in rows.execute(_ALIASES, {"name": name}):
                if at is not None:  # `latest` of an adapter without versions
                    aliases.append(Alias(alias, at, canary, percent or 0))
                    drawn = canary is not None and held is None and draw < percent / 100
                    meant[alias] = canary if drawn else at
            number = reference.version
            if number is None:
                number = meant.get(reference.alias or PROD)
                if number is None and reference.alias is None:
                    number = meant.get(LATEST)
            found = None
            if number is not None:
                found = rows.execute(_LIVE, {"name": name, "number": number}).one_or_none()
            if number is None or found is None:
                raise self._unknown(rows, reference, sorted(meant))
            version = self._versions(rows, [(found.id, found.revision)])[0]
        return _as_of_now(version, aliases, found.reason)

    def list(self) -> list[Version]:
        """Every version, by name and number."""
        with self._database.reading() as rows:
            live = rows.execute(_EVERY_LIVE).all()
            aliases: dict[str, list[Alias]] = {}
            for name, alias, number, canary, percent in rows.execute(_EVERY_ALIAS):
                aliases.setdefault(name, []).append(Alias(alias, number, canary, percent or 0))
            read = self._versions(rows, [(row.id, row.revision) for row in live])
            versions = [(version, row.reason) for version, row in zip(read, live, strict=True)]
        versions.sort(key=lambda pair: (pair[0].name, pair[0].number))  # not by a collation
        latest = {version.name: version.number for version, _ in versions}  # ascending numbers
        for name, number in latest.items():
            aliases.setdefault(name, []).append(Alias(LATEST, number))
        return [_as_of_now(version, aliases[version.name], why) for version, why in versions]

    def find(self, name: str, digest: str, base_digest: str) -> Version | None:
        """The newest version of `name` with exactly this content and base, if there is one."""
        with self._database.reading() as rows:
            number = rows.scalar(
                select(VersionRow.number)
                .where(
                    VersionRow.name == name,
                    VersionRow.digest == digest,
                    VersionRow.base_digest == base_digest,
                    VersionRow.removed_at.is_(None),
                )
                .order_by(VersionRow.number.desc())
                .limit(1)
            )
        return None if number is None else self.get(Reference(name, version=number))

    def folders(self) -> dict[str, bool]:
        """Every folder that a row tells of, and whether its version is live (not removed)."""
        with self._database.reading() as rows:
            found = rows.execute(select(VersionRow.folder, VersionRow.removed_at.is_(None)))
            return {folder: bool(live) for folder, live in found}

    def check_owner(self, name: str, tenant: str | None) -> None:
        """Raise BadReference where `name` is another's than `tenant`'s; None may use any."""
        with self._database.reading() as rows:
            owners = rows.scalars(select(AdapterRow.tenant).where(AdapterRow.name == name)).all()
        for owner in owners:
            _check_owner(name, owner, tenant)

    def reserve(self, name: str, tenant: str | None) -> tuple[int, str | None]:
        """The next number of `name`, never given out again, whatever becomes of it; and its owner.

        A new name becomes `tenant`'s. Raises BadReference where it is another's.
        """
        with self._database.writing() as session:
            adapter = _adapter(session, name, tenant)
            _check_owner(name, adapter.tenant, tenant)
            adapter.last_number += 1
            return adapter.last_number, adapter.tenant

    def add(self, manifest: Manifest, folder: str) -> None:
        """Enter a version whose files are in place."""
        with self._database.writing() as session:
            adapter = _adapter(session, manifest.name, manifest.tenant)
            adapter.last_number = max(adapter.last_number, manifest.version)
            session.flush()
            session.add(
                VersionRow(
                    name=manifest.name,
                    number=manifest.version,
                    digest=manifest.digest,
                    base_digest=manifest.base.digest,
                    folder=folder,
                    manifest=manifest.model_dump_json(),
                    created_at=manifest.created_at,
                )
            )

    def quarantine(self, name: str, number: int, reason: str) -> None:
        """Enter a version into quarantine; where it is there already, its reason stays."""
        with self._database.writing() as session:
            if session.get(QuarantineRow, (name, number)) is None:
                session.add(QuarantineRow(name=name, number=number, reason=reason))

    def release(self, name: str, number: int) -> None:
        """Take a version out of quarantine, if it is there."""
        with self._database.writing() as session:
            row = session.get(QuarantineRow, (name, number))
            if row is not None:
                session.delete(row)

    def remove(self, name: str, number: int) -> None:
        """Mark a version as removed. Raises UnknownAdapter; AliasRefused while it is pointed at."""
        self.get(Reference(name, version=number))
        with self._database.writing() as session:
            holders = session.scalars(
                select(AliasRow.alias).where(AliasRow.name == name, AliasRow.number == number)
            ).all()
            if holders:
                raise AliasRefused(
                    f"{name}@{number} is {' and '.join(sorted(holders))}: it may be in use",
                    remedy=f"point the alias elsewhere first: "
                    f"lorikeet adapters promote {name} VERSION --alias {min(holders)}",
                )
            shared = session.scalars(
                select(CanaryRow.alias).where(CanaryRow.name == name, CanaryRow.number == number)
            ).all()
            if shared:
                raise AliasRefused(
                    f"{name}@{number} is the canary of {' and '.join(sorted(shared))}: "
                    "it may be in use",
                    remedy=f"end the canary first: "
                    f"lorikeet adapters rollback {name} --alias {min(shared)}",
                )
            for row in session.scalars(
                select(VersionRow).where(VersionRow.name == name, VersionRow.number == number)
            ):
                row.removed_at = datetime.now(UTC)

    def replace_manifest(self, manifest: Manifest) -> None:
        """Enter what was added to a version's manifest; for a removed version nothing."""
        with self._database.writing() as session:
            row = session.scalar(
                select(VersionRow).where(
                    VersionRow.name == manifest.name,
                    VersionRow.number == manifest.version,
                    VersionRow.removed_at.is_(None),
                )
            )
            if row is not None:
                row.manifest = manifest.model_dump_json()
                record = session.get(RecordingRow, (row.name, row.number))
                if record is None:
                    session.add(RecordingRow(name=row.name, number=row.number, revision=1))
                else:
                    record.revision += 1

    def filed(self, name: str, number: int) -> None:
        """Note that the file of a version's manifest has what its row has."""
        with self._database.writing() as session:
            if record := session.get(RecordingRow, (name, number)):
                record.filed = record.revision

    def unfiled(self) -> Sequence[Version]:
        """The versions whose manifest has more in its row than in its file."""
        with self._database.reading() as rows:
            found = rows.execute(_UNFILED).all()
            return self._versions(rows, [(row.id, row.revision) for row in found])

    def _versions(
        self, rows: Connection, wanted: Sequence[tuple[int, int | None]]
    ) -> Sequence[Version]:
        """The versions of these rows at these revisions, read from the database where unknown."""
        stale = [
            row for row, revision in wanted if self._known.get(row, (-1,))[0] != (revision or 0)
        ]
        revisions = {row: revision or 0 for row, revision in wanted}
        for start in range(0, len(stale), _BATCH):
            for row in rows.execute(_CONTENT, {"ids": stale[start : start + _BATCH]}):
                try:
                    manifest = Manifest.model_validate_json(row.manifest)
                except ValidationError as error:
                    raise RegistryUnavailable(
                        f"the manifest of {row.name}@{row.number} is not one this version can read",
                        remedy="upgrade lorikeet: the registry was written by a later version",
                    ) from error
                short = manifest.digest[:SHORT_DIGEST]
                place = self._root / row.folder
                version = Version(
                    row.name, row.number, short, place, manifest, (), tenant=row.tenant
                )
                self._known[row.id] = revisions[row.id], version
        return [self._known[row][1] for row, _ in wanted]

    def _unknown(
        self, rows: Connection, reference: Reference, aliases: Sequence[str]
    ) -> UnknownAdapter:
        name = reference.name
        if aliases:
            newest = rows.scalars(_NEWEST, {"name": name}).all()
            there = [*(str(number) for number in reversed(newest)), *aliases]
            return UnknownAdapter(
                f"there is no adapter {reference}",
                remedy=f"{name} has {', '.join(there)}: lorikeet adapters show {name}",
            )
        names = rows.scalars(
            select(AdapterRow.name).where(AdapterRow.name.startswith(name[0], autoescape=True))
        )
        near = difflib.get_close_matches(name, names.all(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return UnknownAdapter(
            f"there is no adapter {name}", remedy=f"{hint}See lorikeet adapters list"
        )


def _as_of_now(version: Version, aliases: Sequence[Alias], quarantine: str | None) -> Version:
    mine = sorted(alias.alias for alias in aliases if alias.number == version.number)
    shares = sorted(
        (alias.alias, alias.percent) for alias in aliases if alias.canary == version.number
    )
    return Version(
        name=version.name,
        number=version.number,
        digest=version.digest,
        path=version.path,
        manifest=version.manifest,
        aliases=tuple(mine),
        canaries=tuple(shares),
        quarantine=quarantine,
        tenant=version.tenant,
    )


def _check_owner(name: str, owner: str | None, tenant: str | None) -> None:
    if tenant not in (None, owner):
        raise BadReference(
            f"{tenant} cannot publish under {name}: it is another's", remedy="choose another name"
        )


def _adapter(session: Session, name: str, tenant: str | None) -> AdapterRow:
    """The row of that name; a new one where there is none, of that tenant."""
    row = session.get(AdapterRow, name, with_for_update=True)
    if row is None:
        row = AdapterRow(name=name, last_number=0, tenant=tenant)
        session.add(row)
    return row


_IS_LIVE = VersionRow.removed_at.is_(None)
_QUARANTINE_OF_VERSION = and_(
    QuarantineRow.name == VersionRow.name, QuarantineRow.number == VersionRow.number
)
_QUARANTINE_OF_CANARY = and_(
    QuarantineRow.name == CanaryRow.name, QuarantineRow.number == CanaryRow.number
)
# One statement for all that a reference can mean, one for the version: they run for each request.
_ALIASES: CompoundSelect[Any] = union_all(
    select(
        AliasRow.alias, AliasRow.number, CanaryRow.number, CanaryRow.percent, QuarantineRow.reason
    )
    .outerjoin(CanaryRow, CANARY_OF_ALIAS)
    .outerjoin(QuarantineRow, _QUARANTINE_OF_CANARY)
    .where(AliasRow.name == bindparam("name")),
    select(literal(LATEST), func.max(VersionRow.number), null(), null(), null()).where(
        VersionRow.name == bindparam("name"), _IS_LIVE
    ),
)
_RECORDING_OF_VERSION = and_(
    RecordingRow.name == VersionRow.name, RecordingRow.number == VersionRow.number
)
_LIVE = (
    select(VersionRow.id, QuarantineRow.reason, RecordingRow.revision)
    .outerjoin(QuarantineRow, _QUARANTINE_OF_VERSION)
    .outerjoin(RecordingRow, _RECORDING_OF_VERSION)
    .where(VersionRow.name == bindparam("name"), VersionRow.number == bindparam("number"), _IS_LIVE)
)
_UNFILED = (
    select(VersionRow.id, RecordingRow.revision)
    .join(RecordingRow, _RECORDING_OF_VERSION)
    .where(RecordingRow.filed < RecordingRow.revision, _IS_LIVE)
)
_NEWEST = (
    select(VersionRow.number)
    .where(VersionRow.name == bindparam("name"), _IS_LIVE)
    .order_by(VersionRow.number.desc())
    .limit(5)
)
_EVERY_LIVE = (
    select(VersionRow.id, QuarantineRow.reason, RecordingRow.revision)
    .outerjoin(QuarantineRow, _QUARANTINE_OF_VERSION)
    .outerjoin(RecordingRow, _RECORDING_OF_VERSION)
    .where(_IS_LIVE)
)
_EVERY_ALIAS = select(
    AliasRow.name, AliasRow.alias, AliasRow.number, CanaryRow.number, CanaryRow.percent
).outerjoin(CanaryRow, CANARY_OF_ALIAS)
_BATCH = 500
_CONTENT = (
    select(
        VersionRow.id,
        VersionRow.name,
        VersionRow.number,
        VersionRow.folder,
        VersionRow.manifest,
        AdapterRow.tenant,
    )
    .join(AdapterRow, AdapterRow.name == VersionRow.name)
    .where(VersionRow.id.in_(bindparam("ids", expanding=True)))
)
