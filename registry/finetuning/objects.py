"""Files, jobs, events and checkpoints as callers see them, and as OpenAI's JSON."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

Status = Literal[
    "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"
]
UNFINISHED: tuple[Status, ...] = ("validating_files", "queued", "running", "paused")
FINISHED: tuple[Status, ...] = ("succeeded", "failed", "cancelled")

FINE_TUNE = "fine-tune"
RESULTS = "fine-tune-results"
SUFFIXES = {FINE_TUNE: ".jsonl", RESULTS: ".csv"}
"""The purposes that files have, and how their names end on disk."""

Level = Literal["info", "warn", "error"]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and whether more follows."""

    data: list[T]
    has_more: bool


@dataclass(frozen=True, slots=True)
class File:
    """A file that a tenant sent, or the metrics of a job. `sha256` is of its bytes, in hex."""

    id: str
    tenant: str
    purpose: str
    filename: str
    bytes: int
    sha256: str
    created_at: datetime

    def as_dict(self) -> dict[str, Any]:
        """OpenAI's `file`."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": unix(self.created_at),
            "expires_at": None,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


@dataclass(frozen=True, slots=True)
class Job:
    """A fine-tuning job, as it stands. Times are in UTC.

    `base` is the name that clients use, `base_place` what `resolve_base` takes, `base_digest` what
    has to be found there. `adapter` is the name that its versions are published under, `version`
    the number of the one that it made. `hyperparameters` are n_epochs, batch_size and
    learning_rate_multiplier, each a number or "auto"; `options` are those of
    `registry.finetuning.request.LoraOptions` that were given. `error` has code, message and param.
    """

    id: str
    tenant: str
    status: Status
    base: str
    base_place: str
    base_digest: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    metadata: dict[str, str] | None
    hyperparameters: dict[str, Any]
    options: dict[str, Any]
    priority: int
    adapter: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    estimated_finish: datetime | None = None
    trained_tokens: int | None = None
    fine_tuned_model: str | None = None
    version: int | None = None
    result_files: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    worker: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing will become of it any more."""
        return self.status in FINISHED

    @property
    def reference(self) -> str | None:
        """The version that it made, `name@3`."""
        return None if self.version is None else f"{self.adapter}@{self.version}"

    def as_dict(self) -> dict[str, Any]:
        """OpenAI's `fine_tuning.job`, with `lorikeet`: the LoRA options and the version made."""
        return {
            "id": self.id,
            "object": "fine_tuning.job",
            "created_at": unix(self.created_at),
            "error": self.error,
            "estimated_finish": None
            if self.estimated_finish is None
            else unix(self.estimated_finish),
            "fine_tuned_model": self.fine_tuned_model,
            "finished_at": None if self.finished_at is None else unix(self.finished_at),
            "hyperparameters": self.hyperparameters,
            "integrations": [],
            "metadata": self.metadata,
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": self.hyperparameters},
            },
            "model": self.base,
            "organization_id": self.tenant,
            "result_files": self.result_files,
            "seed": self.seed,
            "status": self.status,
            "trained_tokens": self.trained_tokens,
            "training_file": self.training_file,
            "user_provided_suffix": self.suffix,
            "validation_file": self.validation_file,
            "lorikeet": {**self.options, "priority": self.priority, "version": self.reference},
        }


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job; `data` are the figures of a `metrics` event."""

    id: str
    job_id: str
    created_at: datetime
    level: Level
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """OpenAI's `fine_tuning.job.event`."""
        return {
            "id": self.id,
            "object": "fine_tuning.job.event",
            "created_at": unix(self.created_at),
            "level": self.level,
            "message": self.message,
            "type": self.type,
            "data": self.data or {},
        }


@dataclass(frozen=True, slots=True)
class Model:
    """A fine-tuned model: its name `ft:<base>:<tenant>:<suffix>:<id>` and the version behind it.

    That of a checkpoint has `step`, a name that ends in `:ckpt-step-<step>`, and `metrics`.
    """

    id: str
    name: str
    tenant: str
    adapter: str
    number: int
    job_id: str
    created_at: datetime
    step: int | None = None
    metrics: dict[str, Any] | None = None

    @property
    def reference(self) -> str:
        """The version, `name@3`."""
        return f"{self.adapter}@{self.number}"

    def as_checkpoint(self) -> dict[str, Any]:
        """OpenAI's `fine_tuning.job.checkpoint`."""
        return {
            "id": self.id,
            "object": "fine_tuning.job.checkpoint",
            "created_at": unix(self.created_at),
            "fine_tuned_model_checkpoint": self.name,
            "fine_tuning_job_id": self.job_id,
            "metrics": self.metrics or {},
            "step_number": self.step,
        }


def unix(moment: datetime) -> int:
    """Seconds since 1970, as OpenAI's objects have times."""
    return int(utc(moment).timestamp())


def utc(moment: datetime) -> datetime:
    """The same moment with its zone: SQLite gives times back without one."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that was seen: where it trains (`cpu`, `0`, `1`…) and what it does, in words."""

    name: str
    devices: list[str]
    doing: str
    seen_at: datetime
