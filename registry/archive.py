"""Takes an adapter out of a zip, tar or tar.gz that somebody sent: nothing else, and not too much.

What counts is written under its own plain name; every other member is passed over, but one that
could do harm anywhere else (a link, a path that leaves the folder) refuses the whole archive.
"""

import errno
import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from registry.adapter_config import CONFIG_FILE
from registry.adapter_folder import ADAPTER_FILES, COMPANION_FILES
from registry.errors import AdapterRejected
from registry.problem import Problem

MAX_MEMBERS = 4096
_HEADER_BYTES = 1 << 20
"""What a zip's directory, or the headers of one member of a tar, may take."""
_PIECE_BYTES = 256 << 10
_WANTED = frozenset({*ADAPTER_FILES, *COMPANION_FILES})
_PACK = "pack the adapter's folder alone: tar czf adapter.tar.gz FOLDER"
_AGAIN = "make the archive again, and send it whole"


def unpack(archive: Path, folder: Path, *, max_bytes: int) -> None:
    """Write the adapter's files that are in `archive`, at its top or in one folder, to `folder`.

    `max_bytes` bounds what all members take unpacked, and so does the time. Raises AdapterRejected
    with one Problem, having written some of the files perhaps; OSError where they cannot be.
    """
    with _damage_told(), archive.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        taker = _Taker(folder, max_bytes)
        if magic[:2] == b"PK":
            _unzip(file, taker)
        elif magic[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as inner:
                _untar(inner, taker)
        else:
            file.seek(257)
            if file.read(5) != b"ustar":
                raise _rejected("kind", "it is no zip, tar or tar.gz archive", _PACK)
            file.seek(0)
            _untar(file, taker)
        taker.finish()


class _Taker:
    """Judges every member, and writes those that belong to an adapter."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._folder = folder
        self._left = max_bytes
        self._count = 0
        self._seen: set[tuple[str, ...]] = set()
        self._home: tuple[str, ...] | None = None

    def judge(self, path: str, size: int, kind: str) -> str | None:
        """The plain name to write a member under, None where it is passed over.

        `kind` is "file", "folder", "link" or "special"; `size` is what the archive says.
        """
        shown = ascii(path if len(path) <= 120 else path[:117] + "...")
        if path.startswith("/") or "\\" in path or path[1:2] == ":" or ".." in path.split("/"):
            raise _rejected("path", f"{shown} leaves the archive's folder", _PACK)
        if kind == "link":
            raise _rejected("link", f"{shown} is a link", f"{_PACK} --dereference")
        if kind == "special":
            raise _rejected("special", f"{shown} is neither a file nor a folder", _PACK)
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise _rejected("members", f"it has more than {MAX_MEMBERS} members", _PACK)
        if kind == "folder":
            return None
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        if parts in self._seen:
            raise _rejected("duplicate", f"{shown} is in it twice", _AGAIN)
        self._seen.add(parts)
        self._left -= size
        if size < 0 or self._left < 0:
            raise self.too_large()
        if not 1 <= len(parts) <= 2 or parts[-1] not in _WANTED:
            return None
        if self._home not in (None, parts[:-1]):
            raise _rejected("layout", "adapters are in it in more than one folder", _PACK)
        self._home = parts[:-1]
        return parts[-1]

    def write(self, name: str, source: IO[bytes]) -> None:
        """Copy a judged member; it is as long as it said, or the archive is damaged."""
        with (self._folder / name).open("xb") as target:
            while piece := source.read(_PIECE_BYTES):
                target.write(piece)

    def finish(self) -> None:
        """Everything was seen: was there an adapter?"""
        if self._home is None:
            raise _rejected(
                "empty", f"it has no {CONFIG_FILE} at its top or in its one folder", _PACK
            )

    def too_large(self) -> AdapterRejected:
        return _rejected(
            "size",
            f"unpacked it takes more than the limit of {self.max_bytes} bytes",
            "pack the adapter's files alone, or train with a lower rank or fewer target modules",
        )


class _Pieces(io.BufferedReader):
    """A file that is read in pieces only: a zip's directory is read in one, whatever its size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _HEADER_BYTES:
            raise _rejected("members", "its directory is too large", _PACK)
        return super().read(size)


def _unzip(file: BinaryIO, taker: _Taker) -> None:
    with zipfile.ZipFile(_Pieces(io.FileIO(file.fileno(), closefd=False))) as archive:
        for member in archive.infolist():
            if member.flag_bits & 0x1:
                raise _rejected("encrypted", "it is encrypted", "pack it without a password")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _rejected("compression", "it is not compressed with deflate", _PACK)
            name = taker.judge(member.filename, member.file_size, _kind_in_zip(member))
            if name is not None:
                with archive.open(member) as source:
                    taker.write(name, source)


def _kind_in_zip(member: zipfile.ZipInfo) -> str:
    mode = member.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "special"
    return "folder" if member.is_dir() else "file"


class _Stream:
    """A tar's bytes, forwards only: `allowed` of them may be read, `most` may pass in all."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, most: int, taker: _Taker) -> None:
        self._file, self._most, self._taker = file, most, taker
        self._position = 0
        self.allowed = 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        self.allowed -= size
        if self.allowed < 0:
            raise tarfile.ReadError("a header is too large")
        self.last = self._take(size)
        return self.last

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("a header points backwards")
        while self._position < position:
            if not self._take(min(_PIECE_BYTES, position - self._position)):
                break

    def drain(self) -> None:
        """Read to the end: only there a checksum of the whole is."""
        while self._take(_PIECE_BYTES):
            pass

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        self._position += len(data)
        if self._position > self._most:
            raise self._taker.too_large()
        return data


def _untar(file: BinaryIO | gzip.GzipFile, taker: _Taker) -> None:
    stream = _Stream(file, taker.max_bytes + MAX_MEMBERS * 4096, taker)
    stream.allowed = _HEADER_BYTES
    with tarfile.TarFile(fileobj=stream, mode="r") as archive:  # type: ignore[arg-type]
        while (member := archive.next()) is not None:
            name = taker.judge(member.name, member.size, _kind_in_tar(member))
            source = archive.extractfile(member) if name is not None else None
            if name is not None and source is not None:
                stream.allowed = member.size
                taker.write(name, source)
            stream.allowed = _HEADER_BYTES
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")
    stream.drain()


def _kind_in_tar(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "link"
    if member.isdir():
        return "folder"
    return "file" if member.isreg() and not member.issparse() else "special"


@contextmanager
def _damage_told() -> Iterator[None]:
    """Whatever the readers stumble over is damage; what our own disk says is not."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        struct.error,
        EOFError,
        ValueError,
        OverflowError,
        NotImplementedError,
    ) as error:
        raise _damaged(error) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # a zip's directory points to a place that cannot be
            raise _damaged(error) from error
        raise


def _damaged(error: Exception) -> AdapterRejected:
    return _rejected("damaged", f"it is cut short or damaged ({error})", _AGAIN)


def _rejected(code: str, what: str, remedy: str) -> AdapterRejected:
    problem = Problem(f"archive-{code}", f"the archive cannot be taken: {what}", remedy)
    return AdapterRejected(problem.message, [problem], remedy=remedy)
