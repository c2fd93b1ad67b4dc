"""How things stand, in numbers: what a server's metrics say of the registry."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from registry.database import Database
from registry.finetuning.objects import utc
from registry.finetuning.queue import alive
from registry.finetuning.tables import EventRow, JobRow
from registry.tables import QuarantineRow, VersionRow

MOST_RUNNING = 100
"""Jobs that are told of one by one, those that have run the longest."""


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that a worker trains now, as it last told. Times in seconds; None: not told yet."""

    id: str
    loss: float | None
    step: float | None
    steps: float | None
    """In all."""
    step_seconds: float | None
    tokens_per_second: float | None
    last_event_age_seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one moment. Versions are those for one base that are not removed."""

    versions: int
    quarantined: int
    jobs: dict[str, int]
    """By status; one that no job has is left out."""
    workers: int
    running: tuple[RunningJob, ...]


class Standings:
    """Counts, in some short queries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, base_digest: str) -> Standing:
        """Versions for the base of that digest; jobs and workers of all. RegistryUnavailable."""
        with self._database.session() as session:
            now = self._database.now(session)
            versions = select(func.count(VersionRow.id)).where(
                VersionRow.base_digest == base_digest, VersionRow.removed_at.is_(None)
            )
            held = versions.join(
                QuarantineRow,
                and_(
                    QuarantineRow.name == VersionRow.name,
                    QuarantineRow.number == VersionRow.number,
                ),
            )
            jobs = session.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
            running = session.scalars(
                select(JobRow.id)
                .where(JobRow.status == "running")
                .order_by(JobRow.created_at)
                .limit(MOST_RUNNING)
            ).all()
            return Standing(
                versions=session.scalar(versions) or 0,
                quarantined=session.scalar(held) or 0,
                jobs={row.status: row[1] for row in jobs},
                workers=len(session.scalars(alive(now)).all()),
                running=tuple(_running(session, job_id, now) for job_id in running),
            )


def _running(session: Session, job_id: str, now: datetime) -> RunningJob:
    told = select(EventRow).where(EventRow.job_id == job_id).order_by(EventRow.sequence.desc())
    last = session.scalars(told.limit(1)).first()
    steps = session.scalars(told.where(EventRow.type == "metrics").limit(2)).all()
    figures: dict[str, Any] = (steps[0].data or {}) if steps else {}
    return RunningJob(
        id=job_id,
        loss=_number(figures, "train_loss"),
        step=_number(figures, "step"),
        steps=_number(figures, "total_steps"),
        step_seconds=_step_seconds(*steps) if len(steps) == 2 else None,
        tokens_per_second=_number(figures, "tokens_per_second"),
        last_event_age_seconds=0.0
        if last is None
        else max(0.0, (now - utc(last.created_at)).total_seconds()),
    )


def _number(figures: dict[str, Any], name: str) -> float | None:
    """A figure that a worker told, whatever version of it."""
    value = figures.get(name)
    return value if isinstance(value, int | float) else None


def _step_seconds(last: EventRow, before: EventRow) -> float | None:
    """From the times of two events: None where they are not of two steps, one after the other."""
    steps = [_number(event.data or {}, "step") or 0 for event in (last, before)]
    done = steps[0] - steps[1]
    seconds = (utc(last.created_at) - utc(before.created_at)).total_seconds()
    return seconds / done if done > 0 and seconds > 0 else None
