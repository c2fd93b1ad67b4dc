"""Which versions there are and where the aliases point: the rows, without the files."""

import difflib
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from registry.aliases import Alias
from registry.catalogue_queries import (
    ALIASES,
    CONTENT,
    EVERY_ALIAS,
    EVERY_LIVE,
    LIVE,
    NEWEST,
    UNFILED,
    same_content,
)
from registry.database import Database
from registry.errors import AliasRefused, BadReference, RegistryUnavailable, UnknownAdapter
from registry.manifest import Manifest
from registry.reference import LATEST, PROD, Reference
from registry.tables import AdapterRow, AliasRow, CanaryRow, QuarantineRow, RecordingRow, VersionRow
from registry.version import Version

SHORT_DIGEST = len("sha256:") + 12
_BATCH = 500
_State = tuple[str, int]
"""A version's folder, and the revision of its manifest."""


class Catalogue:
    """Reads and writes the rows of versions and aliases. For many threads and processes."""

    def __init__(self, database: Database, path: Callable[[Manifest], Path]) -> None:
        """`path` tells where the files of a version are on this machine."""
        self._database = database
        self._path = path
        # By row, each with its folder and the revision of its manifest: read once, and again where
        # it was added to, or a database that was set back has given the row's id anew.
        self._known: dict[int, tuple[_State, Version]] = {}

    def get(self, reference: Reference, draw: float = 1.0) -> Version:
        """The version that `reference` means now; `draw` as for Registry.get.

        Raises UnknownAdapter.
        """
        name = reference.name
        with self._database.reading() as rows:
            aliases, meant = [], {}
            for alias, at, canary, percent, held in rows.execute(ALIASES, {"name": name}):
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
                found = rows.execute(LIVE, {"name": name, "number": number}).one_or_none()
            if number is None or found is None:
                raise self._unknown(rows, reference, sorted(meant))
            version = self._versions(rows, [_state(found)])[found.id]
        return _as_of_now(version, aliases, found.reason)

    def read(
        self,
        rows: Connection,
        names: Collection[str] | None = None,
        unreadable: set[str] | None = None,
    ) -> list[Version]:
        """The versions of these adapters, None for all; as `list`, of what `rows` sees.

        Adapters with a manifest of a later Lorikeet are left out and added to `unreadable`; without
        that, they raise RegistryUnavailable.
        """
        of_live, of_alias = EVERY_LIVE, EVERY_ALIAS
        if names is not None:
            of_live = of_live.where(VersionRow.name.in_(names))
            of_alias = of_alias.where(AliasRow.name.in_(names))
        live = rows.execute(of_live).all()
        aliases: dict[str, list[Alias]] = {}
        for name, alias, number, canary, percent in rows.execute(of_alias):
            aliases.setdefault(name, []).append(Alias(alias, number, canary, percent or 0))
        known = self._versions(rows, [_state(row) for row in live], unreadable)
        read = [(known[row.id], row.reason) for row in live if row.id in known]
        versions = [pair for pair in read if pair[0].name not in (unreadable or ())]
        versions.sort(key=lambda pair: (pair[0].name, pair[0].number))  # not by a collation
        for name, number in {it.name: it.number for it, _ in versions}.items():  # the highest
            aliases.setdefault(name, []).append(Alias(LATEST, number))
        return [_as_of_now(version, aliases[version.name], why) for version, why in versions]

    def list(self) -> list[Version]:
        """Every version, by name and number."""
        with self._database.reading() as rows:
            return self.read(rows)

    def find(self, name: str, digest: str, base_digest: str) -> Version | None:
        """The newest version of `name` with exactly this content and base, if there is one."""
        with self._database.reading() as rows:
            number = rows.scalar(same_content(name, digest, base_digest))
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

    def add(self, manifest: Manifest, commit: Callable[[Session, Manifest], None]) -> bool:
        """Enter a version whose files are in place, which `commit` makes sure of.

        False where the same content came meanwhile: nothing is entered then.
        """
        with self._database.writing() as session:
            same = same_content(manifest.name, manifest.digest, manifest.base.digest)
            if session.scalar(same) is not None:
                return False
            commit(session, manifest)
            adapter = _adapter(session, manifest.name, manifest.tenant)
            adapter.last_number = max(adapter.last_number, manifest.version)
            session.flush()
            session.add(
                VersionRow(
                    name=manifest.name,
                    number=manifest.version,
                    digest=manifest.digest,
                    base_digest=manifest.base.digest,
                    folder=manifest.place,
                    manifest=manifest.model_dump_json(),
                    created_at=manifest.created_at,
                )
            )
            return True

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

    def remove(self, name: str, number: int, release: Callable[[Session, Manifest], None]) -> None:
        """Mark a version as removed; `release` is told in the same transaction.

        Raises UnknownAdapter; AliasRefused while it is pointed at.
        """
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
                release(session, Manifest.model_validate_json(row.manifest))

    def record(
        self, name: str, number: int, news: dict[str, Any], write: Callable[[Manifest], None]
    ) -> tuple[Manifest, int] | None:
        """Add `news` to a version's manifest, which `write` gets first; it, and its revision.

        None for a removed version.
        """
        with self._database.writing() as session:
            row = session.scalar(
                select(VersionRow).where(
                    VersionRow.name == name,
                    VersionRow.number == number,
                    VersionRow.removed_at.is_(None),
                )
            )
            if row is None:
                return None
            manifest = Manifest.model_validate_json(row.manifest).model_copy(update=news)
            write(manifest)
            row.manifest = manifest.model_dump_json()
            record = session.get(RecordingRow, (name, number))
            if record is None:
                record = RecordingRow(name=name, number=number, revision=0)
                session.add(record)
            record.revision += 1
            return manifest, record.revision

    def filed(self, name: str, number: int, revision: int) -> None:
        """Note that the file of a version's manifest was written as it is in `revision`.

        Where its row has gone on meanwhile nobody knows which file is there: it is to be written
        again.
        """
        with self._database.writing() as session:
            record = session.get(RecordingRow, (name, number))
            if record is None:
                return
            if record.revision == revision:
                record.filed = revision
            else:
                record.revision += 1

    def unfiled(self) -> Sequence[tuple[Version, int]]:
        """The versions whose manifest has more in its row than in its file, and its revision."""
        with self._database.reading() as rows:
            states = [_state(row) for row in rows.execute(UNFILED)]
            versions = self._versions(rows, states)
            return [(versions[row], revision) for row, (_, revision) in states]

    def _versions(
        self,
        rows: Connection,
        wanted: Sequence[tuple[int, _State]],
        unreadable: set[str] | None = None,
    ) -> dict[int, Version]:
        """The versions of these rows in these states, read from the database where unknown."""
        stale = [row for row, state in wanted if self._known.get(row, (None,))[0] != state]
        states = dict(wanted)
        for start in range(0, len(stale), _BATCH):
            for row in rows.execute(CONTENT, {"ids": stale[start : start + _BATCH]}):
                try:
                    manifest = Manifest.model_validate_json(row.manifest)
                except ValidationError as error:
                    if unreadable is not None:
                        unreadable.add(row.name)
                        continue
                    raise RegistryUnavailable(
                        f"the manifest of {row.name}@{row.number} is not one this version can read",
                        remedy="upgrade lorikeet: the registry was written by a later version",
                    ) from error
                short, path = manifest.digest[:SHORT_DIGEST], self._path(manifest)
                version = Version(
                    row.name, row.number, short, path, manifest, (), tenant=row.tenant
                )
                self._known[row.id] = states[row.id], version
        return {row: self._known[row][1] for row, _ in wanted if row in self._known}

    def _unknown(
        self, rows: Connection, reference: Reference, aliases: Sequence[str]
    ) -> UnknownAdapter:
        name = reference.name
        if aliases:
            newest = rows.scalars(NEWEST, {"name": name}).all()
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


def _state(row: Any) -> tuple[int, _State]:
    """Of a row of LIVE, EVERY_LIVE or UNFILED: its id, and its state."""
    return row.id, (row.folder, row.revision or 0)
