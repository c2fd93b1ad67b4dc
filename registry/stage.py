"""Where a version is put together before it has a name: nothing half-made is ever seen.

A stage is a folder `.staging/<uuid>` with a lock beside it that its owner holds while it lives.
"""

import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from filelock import FileLock, Timeout

from registry.adapter_folder import ADAPTER_FILES
from registry.files import copy_durably, sync_folder, write_durably
from registry.manifest import MANIFEST_FILE, FileIdentity, Manifest

LEFTOVER_SECONDS = 3600.0


class Stage:
    """One version in the making. Left without `move`, nothing remains of it."""

    def __init__(self, staging: Path) -> None:
        self.folder = staging / uuid4().hex
        self._lock = FileLock(_lock_of(self.folder), thread_local=False)

    def __enter__(self) -> Self:
        self._lock.acquire()
        self.folder.mkdir(mode=0o700)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        _lock_of(self.folder).unlink(missing_ok=True)
        self._lock.release()

    def take(self, folder: Path) -> dict[str, FileIdentity]:
        """Copy the adapter's files from `folder`, durably; what was copied. Raises OSError."""
        taken = {}
        for name in ADAPTER_FILES:
            digest, count = copy_durably(folder / name, self.folder / name)
            taken[name] = FileIdentity(sha256=digest, bytes=count)
        return taken

    def move(self, manifest: Manifest, target: Path) -> None:
        """Write the manifest last, then give the folder its name, read-only. Raises OSError."""
        self.write(manifest)
        sync_folder(self.folder)
        target.parent.mkdir(exist_ok=True)
        self.folder.rename(target)
        protect(target)
        sync_folder(target.parent)
        sync_folder(target.parent.parent)

    def write(self, manifest: Manifest) -> None:
        """Write the manifest, durably. Raises OSError."""
        text = manifest.model_dump_json(indent=2) + "\n"
        write_durably(self.folder / MANIFEST_FILE, text.encode())

    def replace_manifest(self, target: Path) -> None:
        """Put the manifest that was written in the place of that in `target`. Raises OSError."""
        target.chmod(0o755)
        try:
            (self.folder / MANIFEST_FILE).replace(target / MANIFEST_FILE)
        finally:
            protect(target)
        sync_folder(target)


def protect(folder: Path) -> None:
    """Make a version read-only: immutable by mistake, at least."""
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)


def discard(folder: Path, staging: Path) -> None:
    """Delete a version's folder: it is gone from its path at once. Raises OSError."""
    folder.chmod(0o755)
    away = staging / uuid4().hex
    folder.rename(away)
    shutil.rmtree(away)


def sweep(staging: Path, older_than: float = LEFTOVER_SECONDS) -> None:
    """Delete the stages whose owner is gone and that are `older_than` seconds old."""
    for entry in staging.iterdir():
        folder = entry.with_suffix("")
        try:
            if time.time() - entry.stat().st_mtime < older_than:
                continue
            with FileLock(_lock_of(folder), blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
                _lock_of(folder).unlink(missing_ok=True)
        except (Timeout, FileNotFoundError):
            continue  # somebody works in it, or has finished


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")
