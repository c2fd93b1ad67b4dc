"""The files that tenants send for training, and the metrics that jobs give back.

    with registry.files.receiving() as incoming:
        incoming.write(chunk)
        file = registry.files.add(incoming, tenant="acme", purpose="fine-tune", filename="a.jsonl")

The bytes are blobs, `<home>/files/<2>/<sha256>.jsonl`, that never change; one blob is kept however
often it is sent. A file is there when its row is: a blob without a row is swept.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from registry.database import Database
from registry.disk import translated
from registry.errors import JobConflict, QuotaReached, UnknownFile
from registry.files import sync_file, sync_folder
from registry.finetuning.names import new_id
from registry.finetuning.objects import FINE_TUNE, RESULTS, UNFINISHED, File, Page, utc
from registry.finetuning.pages import page
from registry.finetuning.tables import FileRow, JobRow
from registry.settings import RegistrySettings
from registry.stage import Stage

SUFFIXES = {FINE_TUNE: ".jsonl", RESULTS: ".csv"}
"""The purposes there are, and how the blobs of each are named."""

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

    def seal(self) -> str:
        """Make what was written durable and read-only; its SHA-256 in hex."""
        with translated(self._settings, "the file cannot be stored"):
            self.close()
            sync_file(self.path)
            self.path.chmod(0o444)
        return self._digest.hexdigest()

    def close(self) -> None:
        """Write what is buffered and close the file. Raises OSError."""
        self._file.close()


class Files:
    """Receives, lists and deletes files. For many threads and processes."""

    def __init__(self, database: Database, settings: RegistrySettings) -> None:
        self._database = database
        self._settings = settings

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
        sha256 = incoming.seal()
        blob = self._blob(sha256, purpose)
        with translated(self._settings, "the file cannot be stored"):
            blob.parent.mkdir(parents=True, exist_ok=True)
        with self._database.writing() as session:
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
                incoming.path.replace(blob)
                sync_folder(blob.parent)
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
        """Where its bytes are; they never change."""
        return self._blob(file.sha256, file.purpose)

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
        self._drop(file)
        return file

    def sweep(self, older_than: float = _ORPHAN_SECONDS) -> int:
        """Delete the blobs that no row tells of, `older_than` seconds old; how many there were."""
        orphans = [
            blob
            for blob in self._settings.files.glob("??/*")
            if time.time() - blob.stat().st_mtime > older_than
        ]
        return sum(self._drop_blob(blob) for blob in orphans)

    def _drop(self, file: File) -> None:
        self._drop_blob(self.path(file))

    def _drop_blob(self, blob: Path) -> bool:
        """Delete a blob that no file has; in a writing transaction, for none to come meanwhile."""
        purposes = [purpose for purpose, suffix in SUFFIXES.items() if suffix == blob.suffix]
        with (
            translated(self._settings, "the file cannot be deleted"),
            self._database.writing() as session,
        ):
            kept = session.scalar(
                select(FileRow.id)
                .where(
                    FileRow.sha256 == blob.stem,
                    FileRow.purpose.in_(purposes),
                    FileRow.deleted_at.is_(None),
                )
                .limit(1)
            )
            if kept is None:
                blob.unlink(missing_ok=True)
            return kept is None

    def _blob(self, sha256: str, purpose: str) -> Path:
        return self._settings.files / sha256[:2] / f"{sha256}{SUFFIXES[purpose]}"

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
