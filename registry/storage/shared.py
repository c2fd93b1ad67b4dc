"""A store that several machines share: content by its digest, beside each version's manifest.

    sha256/<2>/<hex>                                        a content
    adapters/<name>/<number>-<digest12>/manifest.json       what a version is made of

What is read from it is kept in this machine's cache.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy.orm import Session

from registry.adapter_folder import ADAPTER_FILES
from registry.database import Database
from registry.disk import translated
from registry.errors import BlobDamaged, StoreUnavailable
from registry.manifest import MANIFEST_FILE, FileIdentity, Manifest, content_digest
from registry.settings import RegistrySettings
from registry.stage import Stage
from registry.storage import Blob, Lock
from registry.storage.blobs import Blobs, key_of
from registry.storage.cache import Cache
from registry.storage.filing import file_manifests
from registry.storage.objects import Objects
from registry.storage.pending import Pending
from registry.storage.verification import damaged, is_as_published
from registry.version import Version

if TYPE_CHECKING:
    from registry.catalogue import Catalogue

logger = logging.getLogger(__name__)

_ADAPTERS = "adapters/"


def open_shared(
    settings: RegistrySettings, url: str, database: Database
) -> tuple["SharedVersions", "SharedFiles"]:
    """The store at `url`. Raises StoreUnavailable where it is no store's URL."""
    objects = Objects(url)
    blobs, pending = Blobs(objects), Pending(database, objects)
    cache = Cache(settings.cache, settings.cache_bytes, blobs.get)
    return SharedVersions(settings, objects, blobs, pending, cache), SharedFiles(
        settings, blobs, pending, cache
    )


class SharedVersions:
    """Versions whose files are in the store."""

    def __init__(
        self,
        settings: RegistrySettings,
        objects: Objects,
        blobs: Blobs,
        pending: Pending,
        cache: Cache,
    ) -> None:
        self._settings = settings
        self._objects, self._blobs, self._pending, self._cache = objects, blobs, pending, cache

    @property
    def away_since(self) -> datetime | None:
        return self._objects.away_since

    def ask(self) -> None:
        self._objects.ask()

    def path(self, manifest: Manifest) -> Path:
        return self._cache.path(manifest.files)

    def prepare(self, stage: Stage, files: Mapping[str, FileIdentity]) -> None:
        self._pending.expect(key_of(identity) for identity in files.values())
        for name, identity in files.items():
            self._blobs.put(stage.folder / name, identity)

    def add(self, stage: Stage, manifest: Manifest) -> None:
        self._pending.expect([_manifest_key(manifest)])
        stage.write(manifest)
        self.record(stage, manifest)

    def commit(self, session: Session, manifest: Manifest) -> None:
        _settle(session, self._blobs, self._pending, manifest.files.values())
        self._pending.settle(session, [_manifest_key(manifest)])

    def record(self, stage: Stage, manifest: Manifest) -> None:
        self._objects.replace(stage.folder / MANIFEST_FILE, _manifest_key(manifest))

    @contextmanager
    def fetch(self, version: Version) -> Iterator[Path]:
        with ExitStack() as stack:
            with translated(self._settings, f"{version.reference} cannot be fetched"):
                try:
                    held = self._cache.fetch(version.manifest.files)
                    folder = stack.enter_context(held)
                except BlobDamaged as error:
                    raise damaged(version, [error.message], error.remedy) from error
            yield folder

    def verify(self, version: Version) -> None:
        found, remedy = [], None
        for name, identity in version.manifest.files.items():
            try:
                self._blobs.check(identity)
            except BlobDamaged as error:
                found.append(f"{name}: {error.message}")
                remedy = error.remedy
        content = self._objects.content(_manifest_key(version.manifest))
        if content is None:
            found.append(f"{MANIFEST_FILE} is missing")
        elif not is_as_published(version, content):
            found.append(f"{MANIFEST_FILE} was changed")
        if found:
            raise damaged(version, found, remedy)

    def release(self, session: Session, manifest: Manifest) -> None:
        self._pending.release(session, _keys(manifest))

    def drop(self, manifest: Manifest) -> None:
        _drop(self._pending, _keys(manifest), self._cache, manifest.files)

    def recover(self, catalogue: "Catalogue", lock: Lock) -> None:
        """Adopt what is there where the database knows of nothing; file what was recorded."""
        if not catalogue.folders():
            with lock():
                for manifest in self._whole():
                    catalogue.add(manifest, self.commit)
        try:
            file_manifests(catalogue, self, self._settings.staging)
        except StoreUnavailable as error:  # the rows have it
            logger.warning("%s", error)

    def _whole(self) -> list[Manifest]:
        """The manifests whose files are there, the oldest number first."""
        found = []
        for key in self._objects.keys(_ADAPTERS):
            content = self._objects.content(key)
            try:
                manifest = Manifest.model_validate_json(content or b"")
            except ValidationError:
                continue
            files = manifest.files
            if (
                key == _manifest_key(manifest)
                and files.keys() == set(ADAPTER_FILES)
                and manifest.digest == content_digest(files)
                and all(self._blobs.has(identity) for identity in files.values())
            ):
                found.append(manifest)
        return sorted(found, key=lambda manifest: manifest.version)


class SharedFiles:
    """Tenants' files in the store."""

    def __init__(
        self, settings: RegistrySettings, blobs: Blobs, pending: Pending, cache: Cache
    ) -> None:
        self._settings = settings
        self._blobs, self._pending, self._cache = blobs, pending, cache

    def path(self, blob: Blob) -> Path:
        return self._cache.path({blob.name: blob.identity}) / blob.name

    def prepare(self, source: Path, blob: Blob) -> None:
        self._pending.expect([key_of(blob.identity)])
        self._blobs.put(source, blob.identity)

    def commit(self, session: Session, source: Path, blob: Blob) -> None:
        _settle(session, self._blobs, self._pending, [blob.identity])

    @contextmanager
    def fetch(self, blob: Blob) -> Iterator[Path]:
        with ExitStack() as stack:
            with translated(self._settings, "the file cannot be fetched"):
                folder = stack.enter_context(self._cache.fetch({blob.name: blob.identity}))
            yield folder / blob.name

    def release(self, session: Session, blob: Blob) -> None:
        self._pending.release(session, [key_of(blob.identity)])

    def drop(self, blob: Blob) -> None:
        files = {blob.name: blob.identity}
        _drop(self._pending, [key_of(blob.identity)], self._cache, files)

    def sweep(self, older_than: float) -> int:
        """Of versions too: what is nobody's is noted in one place."""
        return self._pending.sweep(older_than)


def _keys(manifest: Manifest) -> list[str]:
    """Of all that a version has in the store."""
    return [*map(key_of, manifest.files.values()), _manifest_key(manifest)]


def _manifest_key(manifest: Manifest) -> str:
    return f"{_ADAPTERS}{manifest.place}/{MANIFEST_FILE}"


def _settle(
    session: Session, blobs: Blobs, pending: Pending, files: Collection[FileIdentity]
) -> None:
    """The row that tells of these contents is written; somebody may have deleted one meanwhile."""
    for identity in files:
        if not blobs.has(identity):
            raise StoreUnavailable(
                f"{key_of(identity)} was deleted from the store meanwhile",
                remedy="do it again",
            )
    pending.settle(session, map(key_of, files))


def _drop(
    pending: Pending, keys: Iterable[str], cache: Cache, files: Mapping[str, FileIdentity]
) -> None:
    """Of caches only this machine's: those of others give it up when they need the room."""
    try:
        cache.forget(files)
        pending.drop(keys)
    except (StoreUnavailable, OSError) as error:  # the keys are noted, and swept later
        logger.warning("%s", error)
