"""What happens to jobs, told once and in its order."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database import Database
from registry.finetuning.names import new_id
from registry.finetuning.objects import Event, Level, utc
from registry.finetuning.tables import EventRow


def tell(
    database: Database,
    session: Session,
    job_id: str,
    message: str,
    *,
    level: Level = "info",
    key: str | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Add an event to a job, of metrics where it has `data`; with a `key` once only."""
    if key is not None and session.scalar(
        select(EventRow.sequence).where(EventRow.job_id == job_id, EventRow.key == key)
    ):
        return
    session.add(
        EventRow(
            id=new_id("ftevent"),
            job_id=job_id,
            key=key,
            created_at=database.now(session),
            level=level,
            type="message" if data is None else "metrics",
            message=message,
            data=data,
        )
    )


def event_of(row: EventRow) -> Event:
    """The event in a row."""
    return Event(
        id=row.id,
        job_id=row.job_id,
        created_at=utc(row.created_at),
        level=row.level,  # type: ignore[arg-type]
        type=row.type,  # type: ignore[arg-type]
        message=row.message,
        data=row.data,
    )
