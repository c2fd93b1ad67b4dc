"""multipart/form-data as it comes: the bytes of each part go to a receiver, none stay in memory."""

import asyncio
from typing import TYPE_CHECKING, Protocol

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from registry.disk import is_full
from serve.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

BUFFER_BYTES = 1 << 20


class Receiver(Protocol):
    """Takes the parts one after another, in a thread. What it raises ends the request."""

    def begin(self, name: str, filename: str | None) -> None:
        """A part begins: the field's name, and that of the file where it is one."""

    def data(self, chunk: bytes) -> None:
        """More of the part that has begun last."""

    def end(self) -> None:
        """The part is whole."""


async def read(request: Request, receiver: Receiver, *, hint: str) -> None:
    """Read the whole body into `receiver`; `hint` says how to send it right.

    Raises: BadRequest for what is not multipart, is broken or ends in the middle, Unavailable when
    the disk is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise BadRequest(f"Send the body as multipart/form-data: {hint}.")
    events = _Events(receiver)
    try:
        parser = MultipartParser(options[b"boundary"], events.callbacks())
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
    if not events.complete:
        raise BadRequest("The multipart body ends in the middle.")


class _Events:
    """The parser's events as a receiver's."""

    def __init__(self, receiver: Receiver) -> None:
        self.complete = False
        self._receiver = receiver
        self._header = self._value = b""
        self._disposition = b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._receiver.end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._disposition = b""

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        name, filename = (
            None if value is None else value.decode("utf-8", "replace")
            for value in (options.get(b"name"), options.get(b"filename"))
        )
        self._receiver.begin(name or "", filename)

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._receiver.data(data[start:end])

    def _end(self) -> None:
        self.complete = True
