"""Files that are there whole or not at all: digests, durable copies, durable folders."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_durably(source: Path, target: Path) -> tuple[str, int]:
    """Copy a regular file's content and fsync it; return its SHA-256 (hexadecimal) and bytes.

    `source` is opened without following a link. `target` must not exist. Raises OSError.
    """
    digest, count = hashlib.sha256(), 0
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            digest.update(chunk)
            count += len(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest(), count


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and fsync it. Raises OSError, FileExistsError among them."""
    with path.open("xb") as writer:
        writer.write(content)
        writer.flush()
        os.fsync(writer.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` to write into; at the end it is made durable and takes its place.

    Where the operating system refuses, `path` is as it was. Raises OSError.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as writer:
            yield writer
            writer.flush()
            os.fsync(writer.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make every file directly in `folder`, and the names in it, durable."""
    for path in folder.iterdir():
        if path.is_file():
            sync_file(path)
    sync_folder(folder)


def without_path(error: Exception) -> str:
    """The words of an error as a stranger may read them: of a file its name alone."""
    if not isinstance(error, OSError):
        return str(error)
    name = Path(str(error.filename)).name if error.filename else "a file"
    return f"{name}: {error.strerror or type(error).__name__}"
