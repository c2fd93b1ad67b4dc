"""Which versions there are and where the aliases point: the rows, without the files."""

import difflib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import Connection, bindparam, select
from sqlalchemy.orm import Session

from registry.database import Database
from registry.errors import AliasRefused, RegistryUnavailable, UnknownAdapter
from registry.manifest import Manifest
from registry.reference import LATEST, PROD, Reference
from registry.tables import AdapterRow, AliasRow, PromotionRow, VersionRow
from registry.version import Version

SHORT_DIGEST = len("sha256:") + 12


class Catalogue:
    """Reads and writes the rows of versions and aliases. For many threads and processes."""

    def __init__(self, database: Database, root: Path) -> None:
        """`root` is the folder that the versions' folders are relative to."""
        self._database = database
        self._root = root
        self._known: dict[tuple[str, int], Version] = {}  # versions never change: read once

    def get(self, reference: Reference) -> Version:
        """The version that `reference` means now. Raises UnknownAdapter."""
        name = reference.name
        with self._database.reading() as rows:
            numbers = set(rows.scalars(_LIVE_NUMBERS, {"name": name}))
            aliases = dict(rows.execute(_ALIASES, {"name": name}).all())
            if numbers:
                aliases[LATEST] = max(numbers)
            if reference.version is not None:
                number: int | None = reference.version
            elif reference.alias is not None:
                number = aliases.get(reference.alias)
            else:
                number = aliases.get(PROD, aliases.get(LATEST))
            if number is None or number not in numbers:
                raise self._unknown(rows, reference, numbers, aliases)
            version = self._known.get((name, number)) or self._read(rows, name, number)
        return _with_aliases(version, aliases)

    def list(self) -> list[Version]:
        """Every version, by name and number."""
        with self._database.reading() as rows:
            aliases: dict[str, dict[str, int]] = {}
            for name, alias, number in rows.execute(
                select(AliasRow.name, AliasRow.alias, AliasRow.number)
            ):
                aliases.setdefault(name, {})[alias] = number
            versions = [
                self._known.get((name, number)) or self._read(rows, name, number)
                for name, number in rows.execute(
                    select(VersionRow.name, VersionRow.number)
                    .where(VersionRow.removed_at.is_(None))
                    .order_by(VersionRow.name, VersionRow.number)
                )
            ]
        for version in versions:  # ascending: the last one of a name stays
            aliases.setdefault(version.name, {})[LATEST] = version.number
        return [_with_aliases(version, aliases[version.name]) for version in versions]

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

    def reserve(self, name: str) -> int:
        """The next number of `name`, never given out again, whatever becomes of it."""
        with self._database.writing() as session:
            adapter = _adapter(session, name)
            adapter.last_number += 1
            return adapter.last_number

    def add(self, manifest: Manifest, folder: str) -> None:
        """Enter a version whose files are in place."""
        with self._database.writing() as session:
            adapter = _adapter(session, manifest.name)
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

    def promote(self, name: str, number: int, alias: str) -> None:
        """Point `alias` at a version. Raises UnknownAdapter."""
        self.get(Reference(name, version=number))  # says best what is unknown
        with self._database.writing() as session:
            if not _is_live(session, name, number):
                raise UnknownAdapter(f"{name}@{number} was removed just now")
            row = session.get(AliasRow, (name, alias))
            if row is not None and row.number == number:
                return
            session.add(
                PromotionRow(
                    name=name, alias=alias, number=number, replaced=row.number if row else None
                )
            )
            if row is None:
                session.add(AliasRow(name=name, alias=alias, number=number))
            else:
                row.number = number

    def rollback(self, name: str, alias: str) -> int:
        """Point `alias` at what it pointed to before; the number of that version.

        Repeated, it goes further back; versions removed since are passed over. Raises AliasRefused
        where there is nothing before.
        """
        with self._database.writing() as session:
            row = session.get(AliasRow, (name, alias))
            if row is None:
                raise AliasRefused(
                    f"{name} has no alias {alias!r}",
                    remedy=f"set it: lorikeet adapters promote {name} VERSION --alias {alias}",
                )
            promotions = session.scalars(
                select(PromotionRow)
                .where(
                    PromotionRow.name == name,
                    PromotionRow.alias == alias,
                    PromotionRow.undone_at.is_(None),
                )
                .order_by(PromotionRow.id.desc())
            )
            for promotion in promotions:
                promotion.undone_at = datetime.now(UTC)
                before = promotion.replaced
                if before not in (None, row.number) and _is_live(session, name, before):
                    row.number = before
                    return before
            raise AliasRefused(
                f"{name}@{alias} points at version {row.number}, and there is none before it",
                remedy=f"choose a version: lorikeet adapters promote {name} VERSION "
                f"--alias {alias}",
            )

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
            for row in session.scalars(
                select(VersionRow).where(VersionRow.name == name, VersionRow.number == number)
            ):
                row.removed_at = datetime.now(UTC)
        self._known.pop((name, number), None)

    def _read(self, rows: Connection, name: str, number: int) -> Version:
        folder, text = rows.execute(
            select(VersionRow.folder, VersionRow.manifest).where(
                VersionRow.name == name, VersionRow.number == number
            )
        ).one()
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise RegistryUnavailable(
                f"the manifest of {name}@{number} is not one this version can read",
                remedy="upgrade lorikeet: the registry was written by a later version",
            ) from error
        short = manifest.digest[:SHORT_DIGEST]
        version = Version(name, number, short, self._root / folder, manifest, ())
        self._known[name, number] = version
        return version

    def _unknown(
        self, rows: Connection, reference: Reference, numbers: set[int], aliases: Iterable[str]
    ) -> UnknownAdapter:
        name = reference.name
        if numbers:
            there = [str(number) for number in sorted(numbers)[-5:]] + sorted(aliases)
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


def _with_aliases(version: Version, aliases: dict[str, int]) -> Version:
    mine = tuple(sorted(alias for alias, number in aliases.items() if number == version.number))
    return Version(
        version.name, version.number, version.digest, version.path, version.manifest, mine
    )


def _adapter(session: Session, name: str) -> AdapterRow:
    row = session.get(AdapterRow, name, with_for_update=True)
    if row is None:
        row = AdapterRow(name=name, last_number=0)
        session.add(row)
    return row


def _is_live(session: Session, name: str, number: int | None) -> bool:
    return (
        session.scalar(
            select(VersionRow.id).where(
                VersionRow.name == name,
                VersionRow.number == number,
                VersionRow.removed_at.is_(None),
            )
        )
        is not None
    )


_LIVE_NUMBERS = select(VersionRow.number).where(
    VersionRow.name == bindparam("name"), VersionRow.removed_at.is_(None)
)
_ALIASES = select(AliasRow.alias, AliasRow.number).where(AliasRow.name == bindparam("name"))
