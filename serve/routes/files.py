"""`/v1/files`: what tenants send to train on, and the metrics of their jobs. OpenAI's contract."""

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from registry.errors import BlobDamaged, UnknownFile
from registry.finetuning.objects import FINE_TUNE
from serve import multipart
from serve.errors import BadRequest, NotFound, TooLarge, TooManyRequests
from serve.registry_link import in_thread
from serve.retries import is_retry
from serve.service import Service, service_of
from serve.tenancy import tenant_of

if TYPE_CHECKING:
    from registry.finetuning.files import Files, Incoming
    from registry.finetuning.objects import File

router = APIRouter(prefix="/v1/files")

Tenant = Annotated[str, Depends(tenant_of)]
Id = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
After = Annotated[str | None, Query(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]

MAX_UPLOADS = 4
"""Files that one tenant may send at the same time."""
LONGEST_NAME = 255
MAX_PURPOSE_BYTES = 64
CHUNK_BYTES = 1 << 20


@router.post("")
async def create(request: Request, tenant: Tenant) -> dict[str, Any]:
    """Keep a file: multipart/form-data with `file` and `purpose`, streamed to disk."""
    service = service_of(request)
    with _uploading(service, tenant):
        async with contextmanager_in_threadpool(service.registry.files.receiving()) as incoming:
            form = _Form(incoming, service.settings.max_file_bytes)
            await multipart.read(
                request, form, hint=f"curl -F purpose={FINE_TUNE} -F file=@rows.jsonl …"
            )
            form.check()
            file = await service.link.call(
                service.registry.files.add,
                incoming,
                tenant=tenant,
                purpose=FINE_TUNE,
                filename=form.filename,
                most_bytes=service.settings.max_tenant_file_bytes,
                retry=is_retry(request),
            )
    return file.as_dict()


@router.get("")
async def list_files(
    request: Request,
    tenant: Tenant,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64, pattern=r"^[a-z_-]+$")] = None,
) -> dict[str, Any]:
    """The tenant's files by the time that they came."""
    service = service_of(request)
    try:
        page = await service.link.call(
            service.registry.files.list,
            tenant,
            after=after,
            limit=limit,
            order=order,
            purpose=purpose,
        )
    except UnknownFile as error:
        raise BadRequest(error.message, param="after") from error
    data = [file.as_dict() for file in page.data]
    return {"object": "list", "data": data, "has_more": page.has_more}


@router.get("/{file_id}")
async def retrieve(request: Request, tenant: Tenant, file_id: Id) -> dict[str, Any]:
    """What is known of a file."""
    service = service_of(request)
    file = await service.link.call(service.registry.files.get, tenant, file_id)
    return file.as_dict()


@router.get("/{file_id}/content")
async def content(request: Request, tenant: Tenant, file_id: Id) -> Response:
    """A file's bytes as they were sent."""
    service = service_of(request)
    files = service.registry.files
    file = await service.link.call(files.get, tenant, file_id)
    try:
        blob = await in_thread(_open, files, file)  # a store may hang
    except FileNotFoundError as error:
        raise NotFound(f"The file {file_id} was deleted meanwhile.") from error
    except BlobDamaged:
        await service.link.call(files.get, tenant, file_id)  # or deleted meanwhile
        raise
    return _Content(blob, file.bytes)


@router.delete("/{file_id}")
async def delete(request: Request, tenant: Tenant, file_id: Id) -> dict[str, Any]:
    """Delete a file that no unfinished job uses."""
    service = service_of(request)
    file = await service.link.call(service.registry.files.delete, tenant, file_id)
    return {"id": file.id, "object": "file", "deleted": True}


def _open(files: "Files", file: "File") -> BinaryIO:
    """Open it stays readable, whatever becomes of its name."""
    with files.fetch(file) as path:
        return path.open("rb")


class _Form:
    """The parts of an upload; `purpose` may come before the file or after it."""

    def __init__(self, incoming: "Incoming", max_bytes: int) -> None:
        self.filename = ""
        self._incoming = incoming
        self._max_bytes = max_bytes
        self._names: set[str] = set()
        self._part = ""
        self._purpose = b""

    def begin(self, name: str, filename: str | None) -> None:
        if name not in ("file", "purpose"):
            raise BadRequest(
                f"`{name[:64]}` is not accepted: a file is sent as `file` and `purpose`, and kept "
                "until it is deleted.",
                param=name[:64],
            )
        if name in self._names:
            raise BadRequest(f"`{name}` came twice.", param=name)
        self._names.add(name)
        self._part = name
        if name == "file":
            self.filename = _safe(filename or "")

    def data(self, chunk: bytes) -> None:
        if self._part == "file":
            if self._incoming.size + len(chunk) > self._max_bytes:
                raise TooLarge(f"The file is over {self._max_bytes} bytes.", param="file")
            self._incoming.write(chunk)
        elif len(self._purpose) <= MAX_PURPOSE_BYTES:
            self._purpose += chunk[: MAX_PURPOSE_BYTES + 1]

    def end(self) -> None:
        if self._part == "purpose":
            self._check_purpose()

    def check(self) -> None:
        """Everything is there. Raises: BadRequest."""
        for name in ("file", "purpose"):
            if name not in self._names:
                raise BadRequest(f"`{name}` is required.", param=name)
        if self._incoming.size == 0:
            raise BadRequest("The file is empty.", param="file")

    def _check_purpose(self) -> None:
        if self._purpose != FINE_TUNE.encode():
            raise BadRequest(
                f"`purpose` must be `{FINE_TUNE}`: files are kept for that alone.", param="purpose"
            )


def _safe(filename: str) -> str:
    """The name alone, without folders and control characters. Raises: BadRequest."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip()
    if name in ("", ".", ".."):
        raise BadRequest(
            "`file` must be sent as a file with a name: filename=rows.jsonl.", param="file"
        )
    stem, dot, suffix = name.rpartition(".")
    if len(name) > LONGEST_NAME and stem and len(suffix) < 16:
        return stem[: LONGEST_NAME - len(dot + suffix)] + dot + suffix
    return name[:LONGEST_NAME]


@contextmanager
def _uploading(service: Service, tenant: str) -> Iterator[None]:
    """Each upload may fill the disk up to its bound before it counts. Raises: TooManyRequests."""
    if service.uploading[tenant] >= MAX_UPLOADS:
        raise TooManyRequests(f"You are sending {MAX_UPLOADS} files already; send one later.")
    service.uploading[tenant] += 1
    try:
        yield
    finally:
        service.uploading[tenant] -= 1
        if not service.uploading[tenant]:
            del service.uploading[tenant]


class _Content(StreamingResponse):
    """An open file of `size` bytes, which nothing takes for a page; it is closed at the end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        headers = {
            "content-length": str(size),
            "content-disposition": "attachment",
            "x-content-type-options": "nosniff",
        }
        super().__init__(self._chunks(), media_type="application/octet-stream", headers=headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the bytes, as far as the client wants them."""
        with self._file:
            await super().__call__(scope, receive, send)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while chunk := await asyncio.to_thread(self._file.read, CHUNK_BYTES):
            yield chunk
