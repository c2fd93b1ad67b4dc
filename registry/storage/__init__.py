"""Where the bytes are: in the data folder, or in a store that several machines share.

A row of the database decides what there is. Bytes come before their row and go after it: `prepare`
brings them, `commit` makes sure of them in the transaction that writes the row, `release` gives
them up in the one that takes it away, and `drop` deletes them. What a process that was killed in
between has left is swept.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlalchemy.orm import Session

from registry.database import Database
from registry.manifest import FileIdentity, Manifest
from registry.settings import RegistrySettings
from registry.stage import Stage
from registry.version import Version

if TYPE_CHECKING:
    from registry.catalogue import Catalogue

Lock = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Blob:
    """A tenant's file: its content, and how its name ends (".jsonl")."""

    identity: FileIdentity
    suffix: str

    @property
    def name(self) -> str:
        """What it is called on disk."""
        return self.identity.sha256 + self.suffix


class VersionStorage(Protocol):
    """Keeps the files of adapter versions."""

    @property
    def away_since(self) -> datetime | None:
        """Since when a shared store has not answered; None where it did when last asked."""

    def ask(self) -> None:
        """See whether a shared store answers. Raises StoreUnavailable."""

    def path(self, manifest: Manifest) -> Path:
        """The folder that `fetch` gives: the same for as long as the version exists."""

    def prepare(self, stage: Stage, files: Mapping[str, FileIdentity]) -> None:
        """Bring the files of a version that has no number yet."""

    def add(self, stage: Stage, manifest: Manifest) -> None:
        """Write the manifest, the last of a version's files."""

    def commit(self, session: Session, manifest: Manifest) -> None:
        """Make sure that all of it is there, while nobody can delete it."""

    def record(self, stage: Stage, manifest: Manifest) -> None:
        """Put the manifest that `stage` has in the place of the one that was added."""

    def fetch(self, version: Version) -> AbstractContextManager[Path]:
        """The folder of the files on this machine, as they were published, until the context ends.

        Raises VersionDamaged, StoreUnavailable, DiskFull or RegistryUnavailable.
        """

    def verify(self, version: Version) -> None:
        """Read what is kept again.

        Raises VersionDamaged with every difference from the manifest, or StoreUnavailable.
        """

    def release(self, session: Session, manifest: Manifest) -> None:
        """The version's row goes: its files are nobody's from now on."""

    def drop(self, manifest: Manifest) -> None:
        """Delete what no other version has of a version without a row."""

    def recover(self, catalogue: "Catalogue", lock: Lock) -> None:
        """Put right what a crash has left, when a registry is opened."""


class FileStorage(Protocol):
    """Keeps the files that tenants send, and those that jobs give back, by their content."""

    def path(self, blob: Blob) -> Path:
        """Where `fetch` has it."""

    def prepare(self, source: Path, blob: Blob) -> None:
        """Bring the content of `source`."""

    def commit(self, session: Session, source: Path, blob: Blob) -> None:
        """Make sure that it is there, while nobody can delete it."""

    def fetch(self, blob: Blob) -> AbstractContextManager[Path]:
        """The file on this machine, until the context ends.

        Raises BlobDamaged, StoreUnavailable, DiskFull or RegistryUnavailable.
        """

    def release(self, session: Session, blob: Blob) -> None:
        """A row of it goes."""

    def drop(self, blob: Blob) -> None:
        """Delete it, unless another row has it."""

    def sweep(self, older_than: float) -> int:
        """Delete what has been nobody's for `older_than` seconds; how much that was."""


def open_storage(
    settings: RegistrySettings, database: Database
) -> tuple[VersionStorage, FileStorage]:
    """The storage that `settings` name; nothing is asked of it yet. Raises StoreUnavailable."""
    if settings.store_url is None:
        from registry.storage.folders import FolderFiles, FolderVersions

        return FolderVersions(settings), FolderFiles(settings, database)
    from registry.storage.shared import open_shared

    return open_shared(settings, settings.store_url, database)
