"""Fine-tuning jobs as tenants see them: make one, watch it, stop it.

    job = registry.jobs.create(request, tenant="acme", base=base, place="smollm2-135m-instruct")

::

    validating_files ─→ queued ─→ running ─→ succeeded
          │    ╲          │ ╲       │  ╲
          │     failed    │  ╲      │   failed
          └───────── paused (resume leads back), cancelled

What is written here holds at once. A worker that has the job sees at its next beat that it is no
longer its own (`registry.finetuning.claim`), and until it lets go nobody else gets it.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from registry.bases import Base
from registry.database import Database
from registry.errors import JobConflict, QuotaReached, UnknownFile, UnknownJob, UsageError
from registry.finetuning.events import event_of, tell
from registry.finetuning.files import RETRY_SECONDS, find_file
from registry.finetuning.models import model_of
from registry.finetuning.names import adapter_name, new_id
from registry.finetuning.objects import FINE_TUNE, UNFINISHED, Event, Job, Model, Page, Status, utc
from registry.finetuning.pages import page
from registry.finetuning.request import JobRequest
from registry.finetuning.tables import EventRow, JobRow, ModelRow

_SCANNED = 1000


class Jobs:
    """For many threads and processes. `tenant` None means anybody's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        request: JobRequest,
        *,
        tenant: str,
        base: Base,
        place: str,
        retry: bool = False,
        key: str = "",
        most_unfinished: int | None = None,
    ) -> Job:
        """A new job of `tenant`; `place` is where a worker finds the base (`resolve_base`).

        With `retry`, the job that an equal request of this `key`, which tells apart what only
        looks the same, made in the last ten minutes is given again.
        Raises UnknownFile, UsageError for a file of the wrong purpose, and QuotaReached where the
        tenant has `most_unfinished` jobs already.
        """
        digest = hashlib.sha256(f"{key}\n{request.model_dump_json()}".encode()).hexdigest()
        with self._database.writing() as session:
            now = self._database.now(session)
            if retry:
                same = session.scalars(
                    select(JobRow)
                    .where(
                        JobRow.tenant == tenant,
                        JobRow.request_digest == digest,
                        JobRow.created_at > now - timedelta(seconds=RETRY_SECONDS),
                    )
                    .order_by(JobRow.created_at.desc())
                    .limit(1)
                ).first()
                if same is not None:
                    return job_of(same)
            _check_files(session, tenant, request)
            if most_unfinished is not None:
                _check_quota(session, tenant, most_unfinished)
            job_id = new_id("ftjob")
            row = JobRow(
                id=job_id,
                tenant=tenant,
                status="validating_files",
                base=base.id,
                base_place=place,
                base_digest=base.digest,
                training_file=request.training_file,
                validation_file=request.validation_file,
                suffix=request.suffix,
                seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
                labels=request.metadata,
                hyperparameters=request.training.model_dump(),
                options=request.options,
                priority=request.lorikeet.priority,
                adapter=adapter_name(tenant, request.suffix, job_id),
                request_digest=digest,
                created_at=now,
                result_files=[],
                attempt=0,
            )
            session.add(row)
            session.flush()
            tell(self._database, session, job_id, f"Created fine-tuning job: {job_id}")
            checked = f"Validating training file: {request.training_file}"
            if request.validation_file is not None:
                checked += f" and validation file: {request.validation_file}"
            tell(self._database, session, job_id, checked)
            return job_of(row)

    def get(self, tenant: str | None, job_id: str) -> Job:
        """A job as it stands. Raises UnknownJob."""
        with self._database.session() as session:
            return job_of(_find(session, tenant, job_id))

    def list(
        self,
        tenant: str | None,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: dict[str, str] | Literal["null"] | None = None,
        status: Status | None = None,
    ) -> Page[Job]:
        """The jobs, the newest first; with `metadata` those that have each of its pairs.

        "null" is for those without any metadata. Raises UnknownJob for `after`.
        """
        with self._database.session() as session:
            last = _find(session, tenant, after) if after is not None else None
            wanted = select(JobRow)
            if tenant is not None:
                wanted = wanted.where(JobRow.tenant == tenant)
            if status is not None:
                wanted = wanted.where(JobRow.status == status)
            if metadata == "null":
                wanted, metadata = wanted.where(JobRow.labels.is_(None)), None
            for key, value in (metadata or {}).items():
                wanted = wanted.where(_has(session, key, value))
            by = (JobRow.created_at, JobRow.id)
            return page(session, wanted, by, after=last, limit=limit, make=job_of)

    def cancel(self, tenant: str | None, job_id: str) -> Job:
        """End a job; nothing of it is published any more. Raises UnknownJob or JobConflict."""
        return self._move(tenant, job_id, UNFINISHED, "cancelled", "The job was cancelled")

    def pause(self, tenant: str | None, job_id: str) -> Job:
        """Stop a job so that it can go on later. Raises UnknownJob or JobConflict."""
        allowed: tuple[Status, ...] = ("validating_files", "queued", "running")
        return self._move(tenant, job_id, allowed, "paused", "The job was paused")

    def resume(self, tenant: str | None, job_id: str) -> Job:
        """Put a paused job back into the queue. Raises UnknownJob or JobConflict."""
        return self._move(tenant, job_id, ("paused",), "queued", "The job was resumed")

    def prioritize(self, tenant: str | None, job_id: str, priority: int) -> Job:
        """Change a job's place among its tenant's own; the higher goes first. Raises UnknownJob."""
        with self._database.writing() as session:
            row = _find(session, tenant, job_id)
            row.priority = priority
            return job_of(row)

    def events(
        self, tenant: str | None, job_id: str, *, after: str | None = None, limit: int = 20
    ) -> Page[Event]:
        """What happened to a job, the newest first. Raises UnknownJob, also for `after`."""
        with self._database.session() as session:
            _find(session, tenant, job_id)
            wanted = select(EventRow).where(EventRow.job_id == job_id)
            last = None
            if after is not None:
                last = session.scalars(wanted.where(EventRow.id == after)).one_or_none()
                if last is None:
                    raise UnknownJob(f"The job {job_id} has no event {after[:80]!r}.")
            return page(
                session, wanted, (EventRow.sequence,), after=last, limit=limit, make=event_of
            )

    def events_since(
        self, job_id: str, sequence: int, limit: int = _SCANNED
    ) -> Sequence[tuple[int, Event]]:
        """The events after number `sequence`, the oldest first, each with its number."""
        with self._database.session() as session:
            rows = session.scalars(
                select(EventRow)
                .where(EventRow.job_id == job_id, EventRow.sequence > sequence)
                .order_by(EventRow.sequence)
                .limit(limit)
            )
            return [(row.sequence, event_of(row)) for row in rows]

    def checkpoints(
        self, tenant: str | None, job_id: str, *, after: str | None = None, limit: int = 10
    ) -> Page[Model]:
        """A job's checkpoints, the newest first. Raises UnknownJob, also for `after`."""
        with self._database.session() as session:
            _find(session, tenant, job_id)
            wanted = select(ModelRow).where(
                ModelRow.job_id == job_id,
                ModelRow.step.is_not(None),
                ModelRow.deleted_at.is_(None),
            )
            last = None
            if after is not None:
                last = session.scalars(wanted.where(ModelRow.id == after)).one_or_none()
                if last is None:
                    raise UnknownJob(f"The job {job_id} has no checkpoint {after[:80]!r}.")
            return page(session, wanted, (ModelRow.step,), after=last, limit=limit, make=model_of)

    def _move(
        self,
        tenant: str | None,
        job_id: str,
        allowed: Sequence[Status],
        status: Status,
        message: str,
    ) -> Job:
        with self._database.writing() as session:
            row = _find(session, tenant, job_id)
            if row.status not in allowed:
                raise JobConflict(
                    f"The job {job_id} is {row.status}: only a job that is "
                    f"{', '.join(allowed)} can be {_DONE[status]}."
                )
            if status == "queued" and row.validated_at is None:
                status = "validating_files"
            row.status = status
            row.estimated_finish = None
            if status == "cancelled":
                row.finished_at = self._database.now(session)
            tell(self._database, session, job_id, message)
            return job_of(row)


_DONE = {"cancelled": "cancelled", "paused": "paused", "queued": "resumed"}


def job_of(row: JobRow) -> Job:
    """The job in a row."""
    return Job(
        id=row.id,
        tenant=row.tenant,
        status=row.status,  # type: ignore[arg-type]
        base=row.base,
        base_place=row.base_place,
        base_digest=row.base_digest,
        training_file=row.training_file,
        validation_file=row.validation_file,
        suffix=row.suffix,
        seed=row.seed,
        metadata=row.labels,
        hyperparameters=row.hyperparameters,
        options=row.options,
        priority=row.priority,
        adapter=row.adapter,
        created_at=utc(row.created_at),
        started_at=utc(row.started_at) if row.started_at else None,
        finished_at=utc(row.finished_at) if row.finished_at else None,
        estimated_finish=utc(row.estimated_finish) if row.estimated_finish else None,
        trained_tokens=row.trained_tokens,
        fine_tuned_model=row.fine_tuned_model,
        version=row.version,
        result_files=list(row.result_files),
        error=row.error,
        worker=row.worker,
    )


def _has(session: Session, key: str, value: str) -> ColumnElement[bool]:
    """Whether the labels have a pair: SQLite's JSON paths miss keys that JSON escapes, as é."""
    sqlite = session.get_bind().dialect.name == "sqlite"
    each = func.json_each if sqlite else func.json_each_text
    pairs = each(JobRow.labels).table_valued("key", "value")
    found = select(1).select_from(pairs).where(pairs.c.key == key, pairs.c.value == value)
    return found.correlate(JobRow).exists()


def _find(session: Session, tenant: str | None, job_id: str) -> JobRow:
    row = session.get(JobRow, job_id)
    if row is None or tenant not in (None, row.tenant):
        raise UnknownJob(f"There is no fine-tuning job {job_id[:80]!r}.")
    return row


def _check_files(session: Session, tenant: str, request: JobRequest) -> None:
    for field in ("training_file", "validation_file"):
        file_id = getattr(request, field)
        if file_id is None:
            continue
        try:
            file = find_file(session, tenant, file_id)
        except UnknownFile as error:
            raise UnknownFile(f"`{field}`: {error.message}", remedy=error.remedy) from error
        if file.purpose != FINE_TUNE:
            raise UsageError(
                f"`{field}`: the file {file_id} has the purpose {file.purpose!r}.",
                remedy=f"Upload it with the purpose {FINE_TUNE!r}.",
            )


def _check_quota(session: Session, tenant: str, most: int) -> None:
    unfinished = session.scalar(
        select(func.count())
        .select_from(JobRow)
        .where(JobRow.tenant == tenant, JobRow.status.in_(UNFINISHED))
    )
    if (unfinished or 0) >= most:
        raise QuotaReached(
            f"You have {unfinished} unfinished fine-tuning jobs; {most} are allowed.",
            remedy="Wait until some are done, or cancel some.",
        )
