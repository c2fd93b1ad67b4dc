"""Who works on what: jobs are claimed by workers, for as long as they give signs of life.

    claim = registry.queue.claim_training("worker-1", lease_seconds=30)

A claim is taken in one writing transaction, so that no job is given out twice. It is fair over
tenants, for checks of files and for trainings: the one with the fewest of them under way comes
next, then the one that has waited for its turn the longest, however many jobs each has queued.
Among its own, priority decides, then age.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update
from sqlalchemy.orm import Session

from registry.database import Database
from registry.finetuning.claim import Claim
from registry.finetuning.events import tell
from registry.finetuning.jobs import job_of
from registry.finetuning.objects import Status, Worker, utc
from registry.finetuning.tables import JobRow, WorkerRow

SEEN_SECONDS = 60.0
"""How long a worker counts as there after its last sign of life."""


class Queue:
    """For many workers on many machines; the database's clock decides when a lease has run out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim_validation(
        self, worker: str, *, lease_seconds: float, skip: Collection[str] = ()
    ) -> Claim | None:
        """A job whose files are to be checked, none of `skip`; None where there is none."""
        return self._claim(worker, lease_seconds, "validating_files", skip=skip)

    def claim_training(
        self,
        worker: str,
        *,
        lease_seconds: float,
        most_per_tenant: int | None = None,
        skip: Collection[str] = (),
    ) -> Claim | None:
        """A job to train, `running` from now on; None where there is none.

        One that a dead worker has left comes first. A tenant has at most `most_per_tenant`
        trainings under way; `skip` are jobs that are not wanted now. It was the tenant's turn from
        when the claim `begins`.
        """
        return self._claim(worker, lease_seconds, "queued", most_per_tenant, skip)

    def seen(self, worker: str, devices: list[str], doing: str) -> None:
        """A worker is there, and says in words what it does."""
        with self._database.writing() as session:
            session.merge(
                WorkerRow(
                    name=worker,
                    devices=devices,
                    doing=doing,
                    seen_at=self._database.now(session),
                )
            )

    def gone(self, worker: str) -> None:
        """A worker has ended."""
        with self._database.writing() as session:
            row = session.get(WorkerRow, worker)
            if row is not None:
                session.delete(row)

    def forget_dead(self) -> None:
        """Cancelled jobs whose worker ended without letting them go have none any more."""
        with self._database.writing() as session:
            session.execute(
                update(JobRow)
                .where(
                    JobRow.status == "cancelled",
                    JobRow.lease_until <= self._database.now(session),
                )
                .values(worker=None, lease_until=None)
            )

    def workers(self) -> list[Worker]:
        """The workers that gave a sign of life in the last minute, by name."""
        with self._database.session() as session:
            rows = session.scalars(alive(self._database.now(session)).order_by(WorkerRow.name))
            return [
                Worker(row.name, list(row.devices), row.doing, utc(row.seen_at)) for row in rows
            ]

    def _claim(
        self,
        worker: str,
        lease_seconds: float,
        status: Status,
        most_per_tenant: int | None = None,
        skip: Collection[str] = (),
    ) -> Claim | None:
        with self._database.writing() as session:
            now = self._database.now(session)
            free = or_(JobRow.lease_until.is_(None), JobRow.lease_until <= now)
            row = None
            if status == "queued":
                row = _oldest(session, and_(JobRow.status == "running", free), skip)
            left = row is not None
            row = row or _next(session, status, free, now, most_per_tenant, skip)
            if row is None:
                return None
            row.worker = worker
            row.lease_until = now + timedelta(seconds=lease_seconds)
            row.attempt += 1
            if status == "queued":
                row.status = "running"
            if left:
                text = "The worker is gone; another one goes on with the job"
                tell(self._database, session, row.id, text, level="warn")
            session.flush()
            return Claim(self._database, job_of(row), row.attempt)


def alive(now: datetime) -> Select[WorkerRow]:
    """The workers that gave a sign of life in the last minute."""
    return select(WorkerRow).where(WorkerRow.seen_at > now - timedelta(seconds=SEEN_SECONDS))


def _oldest(session: Session, wanted: ColumnElement[bool], skip: Collection[str]) -> JobRow | None:
    return session.scalars(
        select(JobRow)
        .where(wanted, JobRow.id.not_in(skip))
        .order_by(JobRow.created_at, JobRow.id)
        .limit(1)
    ).first()


def _next(
    session: Session,
    status: Status,
    free: ColumnElement[bool],
    now: datetime,
    most_per_tenant: int | None,
    skip: Collection[str],
) -> JobRow | None:
    """The job whose turn it is."""
    under_way, turn = "running", func.max(JobRow.served_at)
    if status == "validating_files":  # a check that did not end well was the job's end
        under_way, turn = status, func.max(func.coalesce(JobRow.validated_at, JobRow.finished_at))
    at_work = (
        select(JobRow.tenant, func.count().label("jobs"))
        .where(JobRow.status == under_way, JobRow.lease_until > now)
        .group_by(JobRow.tenant)
        .subquery()
    )
    served = select(JobRow.tenant, turn.label("at")).group_by(JobRow.tenant).subquery()
    jobs = func.coalesce(at_work.c.jobs, 0)
    wanted = (
        select(JobRow)
        .outerjoin(at_work, at_work.c.tenant == JobRow.tenant)
        .outerjoin(served, served.c.tenant == JobRow.tenant)
        .where(JobRow.status == status, free, JobRow.id.not_in(skip))
        .order_by(
            jobs,
            served.c.at.is_not(None),
            served.c.at,
            JobRow.tenant,
            JobRow.priority.desc(),
            JobRow.created_at,
            JobRow.id,
        )
        .limit(1)
    )
    if most_per_tenant is not None:
        wanted = wanted.where(jobs < most_per_tenant)
    return session.scalars(wanted).first()
