"""The files that tenants send for training, and the metrics that jobs give back.

    with registry.files.receiving() as incoming:
        incoming.write(chunk)
        file = registry.files.add(incoming, tenant="acme", purpose="fine-tune", filename="a.jsonl")

The bytes are kept by their content and never change: once, however often they are sent. A file is
there when its row is: bytes without a row are swept.
"""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from registry.database import Database
from registry.disk import translated
from registry.errors import JobConflict, QuotaReached, UnknownFile
from registry.files import sync_file
from registry.finetuning.names import new_id
from registry.finetuning.objects import SUFFIXES, UNFINISHED, File, Page, utc
from registry.finetuning.pages import page
from registry.finetuning.tables import FileRow, JobRow
from registry.manifest import FileIdentity
from registry.settings import RegistrySettings
from registry.stage import Stage
from registry.storage import Blob, FileStorage

RETRY_SECONDS = 600.0
"""How long a request that says it is sent again may be the same as the one before."""

_ORPHAN_SECONDS = 24 * 3600.0


class Incoming:
    """A file that is being written, on the registry's disk."""

    def __init__(self, settings: RegistrySettings, path: Path) -> None:
        self._settings = settings
        self.path = path
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Add bytes. Raises DiskFull or RegistryUnavailable."""
        with translated(self._settings, "the file cannot be stored", len(chunk)):
            self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def seal(self) -> FileIdentity:
        """Make what was written durable and read-only."""
        with translated(self._settings, "the file cannot be stored"):
            self.close()
            sync_file(self.path)
            self.path.chmod(0o444)
        return FileIdentity(sha256=self._digest.hexdigest(), bytes=self.size)

    def close(self) -> None:
        """Write what is buffered and close the file. Raises OSError."""
        self._file.close()


class Files:
    """Receives, lists and deletes files. For many threads and processes."""

    def __init__(
        self, database: Database, settings: RegistrySettings, storage: FileStorage
    ) -> None:
        self._database = database
        self._settings = settings
        self._storage = storage

    @contextmanager
    def receiving(self) -> Iterator[Incoming]:
        """A file to write into; gone at the end unless it was added. Raises DiskFull."""
        with (
            translated(self._settings, "the file cannot be stored"),
            Stage(self._settings.staging) as stage,
        ):
            incoming = Incoming(self._settings, stage.folder / "incoming")
            try:
                yield incoming
            finally:
                incoming.close()

    def add(
        self,
        incoming: Incoming,
        *,
        tenant: str,
        purpose: str,
        filename: str,
        most_bytes: int | None = None,
        retry: bool = False,
    ) -> File:
        """Keep what was received, as a file of `tenant`; `purpose` is one of SUFFIXES.

        With `retry`, the file of that name, purpose and content that came in the last ten minutes
        is given again. Raises QuotaReached where the tenant's files would be over `most_bytes`,
        DiskFull or RegistryUnavailable; nothing is kept then.
        """
        blob = Blob(incoming.seal(), SUFFIXES[purpose])
        if most_bytes is not None and not retry:  # before anything is brought; and with the row
            with self._database.session() as session:
                self._check_quota(session, tenant, incoming.size, most_bytes)
        with translated(self._settings, "the file cannot be stored"):
            self._storage.prepare(incoming.path, blob)
        with self._database.writing() as session:
            sha256 = blob.identity.sha256
            if retry and (known := self._sent_before(session, tenant, purpose, filename, sha256)):
                return _file(known)
            if most_bytes is not None:
                self._check_quota(session, tenant, incoming.size, most_bytes)
            row = FileRow(
                id=new_id("file"),
                tenant=tenant,
                purpose=purpose,
                filename=filename,
                bytes=incoming.size,
                sha256=sha256,
                created_at=self._database.now(session),
            )
            session.add(row)
            session.flush()
            with translated(self._settings, "the file cannot be stored"):
                self._storage.commit(session, incoming.path, blob)
            return _file(row)

    def get(self, tenant: str | None, file_id: str) -> File:
        """A file of `tenant`; of anybody for None. Raises UnknownFile."""
        with self._database.session() as session:
            return _file(find_file(session, tenant, file_id))

    def list(
        self,
        tenant: str | None,
        *,
        after: str | None = None,
        limit: int = 10_000,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> Page[File]:
        """The files by the time that they came. Raises UnknownFile for `after`."""
        with self._database.session() as session:
            last = find_file(session, tenant, after) if after is not None else None
            wanted = select(FileRow).where(FileRow.deleted_at.is_(None))
            if tenant is not None:
                wanted = wanted.where(FileRow.tenant == tenant)
            if purpose is not None:
                wanted = wanted.where(FileRow.purpose == purpose)
            return page(
                session,
                wanted,
                (FileRow.created_at, FileRow.id),
                after=last,
                limit=limit,
                make=_file,
                descending=order == "desc",
            )

    def path(self, file: File) -> Path:
        """Where `fetch` has its bytes; they never change."""
        return self._storage.path(_blob(file))

    def fetch(self, file: File) -> AbstractContextManager[Path]:
        """Its bytes on this machine, `path`, for as long as the context lasts.

        Raises BlobDamaged, StoreUnavailable, DiskFull or RegistryUnavailable.
        """
        return self._storage.fetch(_blob(file))

    def delete(self, tenant: str | None, file_id: str) -> File:
        """Delete a file, and its bytes where no other file has the same.

        Raises UnknownFile, and JobConflict while an unfinished job uses it.
        """
        with self._database.writing() as session:
            row = find_file(session, tenant, file_id)
            using = session.scalar(
                select(JobRow.id)
                .where(
                    or_(JobRow.training_file == file_id, JobRow.validation_file == file_id),
                    JobRow.status.in_(UNFINISHED),
                )
                .limit(1)
            )
            if using is not None:
                raise JobConflict(
                    f"The file {file_id} is used by the fine-tuning job {using}.",
                    remedy="Cancel the job first, or wait until it is done.",
                )
            row.deleted_at = self._database.now(session)
            file = _file(row)
            self._storage.release(session, _blob(file))
        self._storage.drop(_blob(file))
        return file

    def sweep(self, older_than: float = _ORPHAN_SECONDS) -> int:
        """Delete what no row tells of, `older_than` seconds old; how many there were.

        In a shared store that takes in what adapter versions have left.
        """
        return self._storage.sweep(older_than)

    def _sent_before(
        self, session: Session, tenant: str, purpose: str, filename: str, sha256: str
    ) -> FileRow | None:
        since = self._database.now(session) - timedelta(seconds=RETRY_SECONDS)
        return session.scalars(
            select(FileRow)
            .where(
                FileRow.tenant == tenant,
                FileRow.purpose == purpose,
                FileRow.filename == filename,
                FileRow.sha256 == sha256,
                FileRow.created_at > since,
                FileRow.deleted_at.is_(None),
            )
            .order_by(FileRow.created_at.desc())
            .limit(1)
        ).first()

    def _check_quota(self, session: Session, tenant: str, more: int, most: int) -> None:
        kept = session.scalar(
            select(func.coalesce(func.sum(FileRow.bytes), 0)).where(
                FileRow.tenant == tenant, FileRow.deleted_at.is_(None)
            )
        )
        if int(kept or 0) + more > most:
            raise QuotaReached(
                f"Your files would be {(int(kept or 0) + more) / 1e6:,.1f} MB; at most "
                f"{most / 1e6:,.1f} MB are kept for you.",
                remedy="Delete files that you no longer need.",
            )


def find_file(session: Session, tenant: str | None, file_id: str) -> FileRow:
    """The row of a file of `tenant`, of anybody for None. Raises UnknownFile."""
    row = session.get(FileRow, file_id)
    if row is None or row.deleted_at is not None or tenant not in (None, row.tenant):
        raise UnknownFile(f"There is no file {file_id[:80]!r}.", remedy="Upload it first.")
    return row


def _blob(file: File) -> Blob:
    return Blob(FileIdentity(sha256=file.sha256, bytes=file.bytes), SUFFIXES[file.purpose])


def _file(row: FileRow) -> File:
    return File(
        id=row.id,
        tenant=row.tenant,
        purpose=row.purpose,
        filename=row.filename,
        bytes=row.bytes,
        sha256=row.sha256,
        created_at=utc(row.created_at),
    )
