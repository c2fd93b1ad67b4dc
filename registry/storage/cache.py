"""Verified copies of what is in the shared store, on this machine's disk, for all its processes.

    cache/<2>/<content digest>/     one set of files, read-only
    cache/.drafts/<uuid>/           one that is being fetched

Whoever uses an entry holds a shared lock on its folder, which ends with the process; what is not in
use goes, the least recently used first, when there is no room. A draft counts in full from its
beginning, so that several processes together stay within the bound.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from filelock import FileLock, Timeout

from registry.disk import SPARE_BYTES
from registry.errors import DiskFull, RegistryUnavailable
from registry.files import sync_folder
from registry.manifest import FileIdentity, content_digest
from registry.stage import protect
from registry.storage.verification import folder_damages

WAIT_SECONDS = 600.0
"""How long a process waits for another one that fetches the same."""

_TRIES = 3

Files = Mapping[str, FileIdentity]
Download = Callable[[FileIdentity, BinaryIO], None]


class Cache:
    """Entries are sets of files, each under the name that it is to have. For many threads."""

    def __init__(self, folder: Path, most_bytes: int, download: Download) -> None:
        """`download` writes a content to a file, or raises where it is not to be had."""
        self._folder, self._drafts = folder, folder / ".drafts"
        self._most_bytes, self._download = most_bytes, download

    def path(self, files: Files) -> Path:
        """The folder that `fetch` gives: the same for equal files."""
        digest = content_digest(dict(files)).partition(":")[2]
        return self._folder / digest[:2] / digest

    @contextmanager
    def fetch(self, files: Files) -> Iterator[Path]:
        """The folder with these files; nobody deletes it until the context ends.

        It is read again each time; what was damaged on the disk is fetched anew. Raises what
        `download` does, DiskFull where there is no room, RegistryUnavailable or OSError.
        """
        path, fresh = self.path(files), False
        for _ in range(_TRIES):
            with _held(path) as is_there:
                if is_there and (fresh or not folder_damages(path, files)):
                    os.utime(path)  # used last
                    yield path
                    return
            self._fill(path, files)
            fresh = True
        raise RegistryUnavailable(
            f"{path} does not stay as it is written",
            remedy="check its disk; or, with many adapters in use, raise LORIKEET_CACHE_BYTES",
        )

    def forget(self, files: Files) -> None:
        """Delete an entry, if it is there and nobody uses it. Raises OSError."""
        _delete(self.path(files), self._drafts)

    def _fill(self, path: Path, files: Files) -> None:
        """Download an entry, once for all who want it now."""
        self._drafts.mkdir(parents=True, exist_ok=True)
        lock = self._drafts / f"{path.name}.lock"
        try:
            with FileLock(lock, timeout=WAIT_SECONDS):
                try:
                    if not path.is_dir() or folder_damages(path, files):
                        self._fetch(path, files)
                finally:
                    lock.unlink(missing_ok=True)
        except Timeout as error:
            raise RegistryUnavailable(
                f"another process has been fetching {path.name[:12]} for {WAIT_SECONDS:.0f} s",
                remedy="try again; if it stays so, end that process",
            ) from error

    def _fetch(self, path: Path, files: Files) -> None:
        with self._draft(files) as draft:
            for name, identity in files.items():
                with (draft / name).open("r+b") as file:
                    self._download(identity, file)
                    file.flush()
                    os.fsync(file.fileno())
            path.parent.mkdir(exist_ok=True)
            if path.is_dir():  # damaged: whoever uses it gets the files in their place
                _replace(draft, path)
            else:
                draft.rename(path)
            protect(path)
            sync_folder(path.parent)

    @contextmanager
    def _draft(self, files: Files) -> Iterator[Path]:
        """A folder of empty files, with the room that they need."""
        draft = self._drafts / uuid4().hex
        with ExitStack() as stack:
            with FileLock(self._drafts / "room.lock", timeout=WAIT_SECONDS):
                self._make_room(sum(identity.bytes for identity in files.values()))
                draft.mkdir()
                lock = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, lock)
                stack.callback(shutil.rmtree, draft, ignore_errors=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
                for name, identity in files.items():
                    with (draft / name).open("xb") as file:
                        if identity.bytes:
                            os.posix_fallocate(file.fileno(), 0, identity.bytes)
            yield draft

    def _make_room(self, needed: int) -> None:
        for draft in self._drafts.iterdir():
            if draft.is_dir():
                _delete(draft, self._drafts)  # of a process that was killed, or it is held
        entries = [(entry, *_measure(entry)) for entry in self._folder.glob("??/*")]
        drafts = [_measure(draft)[1] for draft in self._drafts.iterdir() if draft.is_dir()]
        used = sum(size for _, _, size in entries) + sum(drafts)
        free = max(0, shutil.disk_usage(self._folder).free - SPARE_BYTES)
        most = min(self._most_bytes, used + free)
        for entry, _, size in sorted(entries, key=lambda each: each[1]):
            if used + needed <= most:
                return
            if _delete(entry, self._drafts):
                used -= size
        if used + needed > most:
            raise DiskFull(
                f"the cache {self._folder} is full: {needed / 1e6:.1f} MB are needed, and "
                f"{used / 1e6:.1f} of {most / 1e6:.1f} MB are in use",
                needed=needed,
                free=max(0, most - used),
                remedy="raise LORIKEET_CACHE_BYTES, free space on its disk, or load fewer adapters "
                "at once",
            )


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a folder against deletion until the context ends; whether it is there."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield _is_open(folder, descriptor)
    finally:
        os.close(descriptor)


def _delete(folder: Path, drafts: Path) -> bool:
    """Delete a folder that nobody holds; whether nobody did."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_open(folder, descriptor):
            folder.chmod(0o755)
            away = folder.rename(drafts / uuid4().hex)  # gone from its path at once
            shutil.rmtree(away)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _is_open(folder: Path, descriptor: int) -> bool:
    """Whether `folder` still is what was opened."""
    with suppress(FileNotFoundError):
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    return False


def _measure(folder: Path) -> tuple[float, int]:
    """When a folder was last used, and its bytes; of one that is gone, none."""
    with suppress(FileNotFoundError):
        return folder.stat().st_mtime, sum(path.stat().st_size for path in folder.iterdir())
    return 0.0, 0


def _replace(draft: Path, folder: Path) -> None:
    """Put the files of `draft` into the place of those in `folder`."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        if not (draft / path.name).exists():
            path.unlink()
    for path in draft.iterdir():
        path.replace(folder / path.name)
