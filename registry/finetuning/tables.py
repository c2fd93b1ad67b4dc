"""The tables of files and fine-tuning jobs. What is a blob stays in the file system."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables import Table, UtcDateTime, now

TENANT = String(64)
ADAPTER = String(64)
MODEL = String(320)


class FileRow(Table):
    """A file that a tenant sent, or the result of a job; its bytes are a blob named by `sha256`."""

    __tablename__ = "files"
    __table_args__ = (Index("files_by_tenant", "tenant", "created_at"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(TENANT)
    purpose: Mapped[str] = mapped_column(String(32))
    filename: Mapped[str] = mapped_column(String(255))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class JobRow(Table):
    """A fine-tuning job. `worker` holds it until `lease_until`; `attempt` fences off older claims.

    `attempt` grows with every claim: who holds an older number has lost the job.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_by_tenant", "tenant", "created_at"),
        Index("jobs_by_status", "status", "created_at"),
        Index("jobs_by_retry", "tenant", "request_digest"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(TENANT)
    status: Mapped[str] = mapped_column(String(20))
    base: Mapped[str] = mapped_column(String(192))
    base_place: Mapped[str] = mapped_column(Text)
    base_digest: Mapped[str] = mapped_column(String(71))
    training_file: Mapped[str] = mapped_column(ForeignKey("files.id"))
    validation_file: Mapped[str | None] = mapped_column(ForeignKey("files.id"), default=None)
    suffix: Mapped[str | None] = mapped_column(String(64), default=None)
    seed: Mapped[int] = mapped_column(BigInteger)
    labels: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True), default=None)
    """OpenAI's `metadata`; SQLAlchemy has that name for itself."""
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    priority: Mapped[int] = mapped_column(default=0)
    adapter: Mapped[str] = mapped_column(ADAPTER)
    request_digest: Mapped[str | None] = mapped_column(String(64), default=None)

    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    validated_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    estimated_finish: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    served_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    """When a worker last began with it: what fairness over tenants goes by."""

    trained_tokens: Mapped[int | None] = mapped_column(BigInteger, default=None)
    fine_tuned_model: Mapped[str | None] = mapped_column(MODEL, default=None)
    version: Mapped[int | None] = mapped_column(default=None)
    result_files: Mapped[list[str]] = mapped_column(JSON, default=list)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)

    worker: Mapped[str | None] = mapped_column(String(128), default=None)
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    attempt: Mapped[int] = mapped_column(default=0)


class EventRow(Table):
    """What happened to a job. An event with a `key` is there once, however often it is told."""

    __tablename__ = "job_events"
    __table_args__ = (UniqueConstraint("job_id", "key"),)

    sequence: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    key: Mapped[str | None] = mapped_column(String(64), default=None)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)


class ModelRow(Table):
    """A fine-tuned model's name, `ft:…`, and the version behind it; of a checkpoint with `step`.

    A deleted one stays: its name is used up.
    """

    __tablename__ = "fine_tuned_models"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    name: Mapped[str] = mapped_column(MODEL, primary_key=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    tenant: Mapped[str] = mapped_column(TENANT, index=True)
    adapter: Mapped[str] = mapped_column(ForeignKey("adapters.name"))
    number: Mapped[int]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    step: Mapped[int | None] = mapped_column(default=None)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class WorkerRow(Table):
    """A worker that was there at `seen_at`, and what it did then."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    devices: Mapped[list[str]] = mapped_column(JSON)
    doing: Mapped[str] = mapped_column(Text)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
