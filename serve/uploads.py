"""A multipart upload of an adapter, streamed to disk: the files of a folder, or an archive."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from registry.adapter_folder import ADAPTER_FILES, COMPANION_FILES
from registry.disk import is_full
from serve.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
BUFFER_BYTES = 1 << 20
MAX_PARTS = 256


async def receive(request: Request, folder: Path) -> Path | None:
    """Write the request's files into `folder`; the path of the archive where one was sent.

    Of a folder, the files that make an adapter are kept and the others are passed over.
    Raises: BadRequest for what is not such an upload, Unavailable when the disk is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise BadRequest("Send the files as multipart/form-data: curl -F file=@adapter.zip …")
    writer = _Writer(folder)
    try:
        parser = MultipartParser(options[b"boundary"], writer.callbacks())
        buffer = bytearray()
        async for chunk in request.stream():
            buffer += chunk
            if len(buffer) >= BUFFER_BYTES:
                await asyncio.to_thread(parser.write, bytes(buffer))
                buffer.clear()
        await asyncio.to_thread(parser.write, bytes(buffer))
        await asyncio.to_thread(parser.finalize)
    except FormParserError as error:
        raise BadRequest(f"The multipart body is broken: {error}.") from error
    except OSError as error:
        if is_full(error):
            raise Unavailable("The server's disk is full.") from error
        raise
    finally:
        writer.close()
    if not writer.complete:
        raise BadRequest("The multipart body ends in the middle.")
    if writer.archive is not None and writer.names != {writer.archive.name}:
        raise BadRequest("Send either one archive, or the files of one folder.")
    if not writer.names:
        raise BadRequest(
            f"No file of an adapter came: send {' and '.join(ADAPTER_FILES)}, or an archive "
            f"({', '.join(ARCHIVES)}) of them."
        )
    return writer.archive


class _Writer:
    """Takes the parser's events and writes the parts that count."""

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()
        self.archive: Path | None = None
        self.complete = False
        self._folder = folder
        self._file: BinaryIO | None = None
        self._header = self._value = b""
        self._disposition = b""
        self._parts = 0

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._write,
            "on_part_end": self.close,
            "on_end": self._end,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise FormParserError(f"it has over {MAX_PARTS} parts")
        self._disposition = b""

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        sent = options.get(b"filename", b"").decode("utf-8", "replace")
        name = sent.replace("\\", "/").rpartition("/")[2]
        suffix = next((s for s in ARCHIVES if name.lower().endswith(s)), None)
        if suffix is not None:
            name = f"archive{suffix}"
            self.archive = self._folder / name
        elif name not in (*ADAPTER_FILES, *COMPANION_FILES):
            return
        if name in self.names:
            raise FormParserError(f"{name} came twice")
        self.names.add(name)
        self._file = (self._folder / name).open("xb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])

    def _end(self) -> None:
        self.complete = True
