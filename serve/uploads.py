"""A multipart upload of an adapter, streamed to disk: the files of a folder, or an archive."""

from pathlib import Path
from typing import BinaryIO

from fastapi import Request

from registry.adapter_folder import ADAPTER_FILES, COMPANION_FILES
from serve import multipart
from serve.errors import BadRequest

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_PARTS = 256


async def receive(request: Request, folder: Path) -> Path | None:
    """Write the request's files into `folder`; the path of the archive where one was sent.

    Of a folder, the files that make an adapter are kept and the others are passed over.
    Raises: BadRequest for what is not such an upload, Unavailable when the disk is full.
    """
    writer = _Writer(folder)
    try:
        await multipart.read(request, writer, hint="curl -F file=@adapter.zip …")
    finally:
        writer.end()
    if writer.archive is not None and writer.names != {writer.archive.name}:
        raise BadRequest("Send either one archive, or the files of one folder.")
    if not writer.names:
        raise BadRequest(
            f"No file of an adapter came: send {' and '.join(ADAPTER_FILES)}, or an archive "
            f"({', '.join(ARCHIVES)}) of them."
        )
    return writer.archive


class _Writer:
    """Writes the parts that count, whatever their fields are called."""

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()
        self.archive: Path | None = None
        self._folder = folder
        self._file: BinaryIO | None = None
        self._parts = 0

    def begin(self, _: str, filename: str | None) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"The multipart body has over {MAX_PARTS} parts.")
        name = (filename or "").replace("\\", "/").rpartition("/")[2]
        suffix = next((s for s in ARCHIVES if name.lower().endswith(s)), None)
        if suffix is not None:
            name = f"archive{suffix}"
            self.archive = self._folder / name
        elif name not in (*ADAPTER_FILES, *COMPANION_FILES):
            return
        if name in self.names:
            raise BadRequest(f"{name} came twice.")
        self.names.add(name)
        self._file = (self._folder / name).open("xb")

    def data(self, chunk: bytes) -> None:
        if self._file is not None:
            self._file.write(chunk)

    def end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
