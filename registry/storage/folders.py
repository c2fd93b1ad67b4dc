"""The data folder as the storage.

::

    adapters/<name>/<number>-<digest12>/    a version, read-only
    files/<2>/<sha256>.jsonl                a file that a tenant sent
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database import Database
from registry.disk import translated
from registry.files import sha256_of, sync_folder
from registry.finetuning.objects import SUFFIXES
from registry.finetuning.tables import FileRow
from registry.manifest import MANIFEST_FILE, FileIdentity, Manifest
from registry.settings import RegistrySettings
from registry.stage import Stage, discard, protect
from registry.storage import Blob, Lock
from registry.storage.filing import file_manifests
from registry.storage.verification import damaged, folder_damages, is_as_published
from registry.version import Version

if TYPE_CHECKING:
    from registry.catalogue import Catalogue

logger = logging.getLogger(__name__)

_VERSION = re.compile(r"(?P<number>[1-9]\d{0,8})-(?P<digest>[0-9a-f]{12})")


class FolderVersions:
    """Versions that were staged, made durable, and renamed to their place."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings

    @property
    def away_since(self) -> None:
        return None

    def ask(self) -> None:
        pass

    def path(self, manifest: Manifest) -> Path:
        return self._settings.adapters / manifest.place

    def prepare(self, stage: Stage, files: Mapping[str, FileIdentity]) -> None:
        """They are in the stage."""

    def add(self, stage: Stage, manifest: Manifest) -> None:
        path = self.path(manifest)
        if path.is_dir():  # no row tells of it, and it has no other content
            discard(path, self._settings.staging)
        stage.move(manifest, path)

    def commit(self, session: Session, manifest: Manifest) -> None:
        """They are in their place."""

    def record(self, stage: Stage, manifest: Manifest) -> None:
        stage.replace_manifest(self.path(manifest))

    @contextmanager
    def fetch(self, version: Version) -> Iterator[Path]:
        self.verify(version)
        yield version.path

    def verify(self, version: Version) -> None:
        folder, files = version.path, version.manifest.files
        found = folder_damages(folder, files, beside=[MANIFEST_FILE])
        with suppress(OSError):  # which is told already
            if not is_as_published(version, (folder / MANIFEST_FILE).read_bytes()):
                found.append(f"{MANIFEST_FILE} was changed")
        if found:
            raise damaged(version, found)

    def release(self, session: Session, manifest: Manifest) -> None:
        """The row was all that held them."""

    def drop(self, manifest: Manifest) -> None:
        if self.path(manifest).is_dir():
            discard(self.path(manifest), self._settings.staging)

    def recover(self, catalogue: "Catalogue", lock: Lock) -> None:
        """Adopt whole versions without a row, delete what was removed, file what was recorded.

        What is neither is left, and told: no crash leaves half a version in a version's place.
        Takes the registry's lock only where there is something to do. Raises OSError.
        """
        if not self._astray(catalogue) and not catalogue.unfiled():
            return
        with lock():
            for place in self._astray(catalogue):
                path = self._settings.adapters / place
                removed = place in catalogue.folders()
                manifest = None if removed else _whole(path)
                if manifest is not None:
                    protect(path)
                    removed = not catalogue.add(manifest, self.commit)  # a row tells of another
                elif not removed:  # another database may know it, or a later Lorikeet
                    logger.warning("%s is left as it is: it is no whole version", path)
                if removed:
                    discard(path, self._settings.staging)
            file_manifests(catalogue, self, self._settings.staging)

    def _astray(self, catalogue: "Catalogue") -> list[str]:
        """Folders that look like versions but are not those of a live row, oldest number first."""
        rows = catalogue.folders()
        found = [
            f"{name.name}/{version.name}"
            for name in self._settings.adapters.iterdir()
            if not name.name.startswith(".") and name.is_dir()
            for version in name.iterdir()
            if _VERSION.fullmatch(version.name) and not rows.get(f"{name.name}/{version.name}")
        ]
        return sorted(found, key=lambda place: int(place.partition("/")[2].partition("-")[0]))


class FolderFiles:
    """Tenants' files, one for each content."""

    def __init__(self, settings: RegistrySettings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def path(self, blob: Blob) -> Path:
        return self._settings.files / blob.name[:2] / blob.name

    def prepare(self, source: Path, blob: Blob) -> None:
        self.path(blob).parent.mkdir(parents=True, exist_ok=True)

    def commit(self, session: Session, source: Path, blob: Blob) -> None:
        path = self.path(blob)
        source.replace(path)
        sync_folder(path.parent)

    @contextmanager
    def fetch(self, blob: Blob) -> Iterator[Path]:
        yield self.path(blob)

    def release(self, session: Session, blob: Blob) -> None:
        """The row was all that held it."""

    def drop(self, blob: Blob) -> None:
        self._drop(self.path(blob))

    def sweep(self, older_than: float) -> int:
        orphans = [
            path
            for path in self._settings.files.glob("??/*")
            if time.time() - path.stat().st_mtime > older_than
        ]
        return sum(self._drop(path) for path in orphans)

    def _drop(self, path: Path) -> bool:
        """Delete a file that no row has; in a writing transaction, for none to come meanwhile."""
        with (
            translated(self._settings, "the file cannot be deleted"),
            self._database.writing() as session,
        ):
            kept = session.scalars(
                select(FileRow).where(FileRow.sha256 == path.stem, FileRow.deleted_at.is_(None))
            )
            if any(SUFFIXES[row.purpose] == path.suffix for row in kept):
                return False
            path.unlink(missing_ok=True)
            return True


def _whole(folder: Path) -> Manifest | None:
    """The manifest of the version in `folder`, None where it is not exactly what that says."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
        same = all(
            sha256_of(folder / name) == identity.sha256 for name, identity in manifest.files.items()
        )
    except (OSError, ValidationError):
        return None
    return manifest if same and manifest.place == f"{folder.parent.name}/{folder.name}" else None
