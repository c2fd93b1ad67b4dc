"""A job in a worker's hands, until its lease runs out or it is taken away.

Each claim has a number. Who holds an older one than the job has now, or finds the job cancelled or
paused, gets LeaseLost from all that it tries: what it did since counts for nothing.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from registry.database import Database
from registry.errors import LeaseLost, RegistryUnavailable
from registry.finetuning.events import tell
from registry.finetuning.jobs import job_of
from registry.finetuning.models import model_of
from registry.finetuning.names import checkpoint_name, model_name, new_id
from registry.finetuning.objects import Job, Level, Model
from registry.finetuning.tables import JobRow, ModelRow
from registry.version import Version

logger = logging.getLogger(__name__)


class Claim:
    """For one worker's threads. Every method but `release` raises LeaseLost."""

    def __init__(self, database: Database, job: Job, attempt: int) -> None:
        self._database = database
        self.job = job
        self.attempt = attempt

    def begins(self) -> None:
        """The training begins, or goes on: it was its tenant's turn."""
        with self._held() as (session, row):
            first = row.started_at is None
            row.served_at = self._database.now(session)
            row.started_at = row.started_at or row.served_at
            text = "Fine-tuning job started" if first else "Fine-tuning job goes on"
            tell(self._database, session, row.id, text)

    def renew(
        self,
        lease_seconds: float,
        *,
        estimated_finish: datetime | None = None,
        trained_tokens: int | None = None,
    ) -> None:
        """Hold the job for `lease_seconds` from now, and say how far it is."""
        with self._held() as (session, row):
            row.lease_until = self._database.now(session) + timedelta(seconds=lease_seconds)
            row.estimated_finish = estimated_finish
            if trained_tokens is not None:
                row.trained_tokens = trained_tokens

    def note(self, message: str, *, level: Level = "info", key: str | None = None) -> None:
        """Tell an event; one with a `key` once, however often the job is taken up again."""
        with self._held() as (session, row):
            tell(self._database, session, row.id, message, level=level, key=key)

    def metrics(self, step: int, message: str, data: dict[str, Any]) -> None:
        """Tell the figures of a step, once."""
        with self._held() as (session, row):
            tell(self._database, session, row.id, message, key=f"step-{step}", data=data)

    def checkpoint(self, step: int, version: Version, metrics: dict[str, Any]) -> Model:
        """Let the version of a checkpoint be asked for by name; once a step."""
        with self._held() as (session, row):
            name = checkpoint_name(self._model_name(row), step)
            known = session.get(ModelRow, name)
            if known is not None:
                return model_of(known)
            model = self._model(session, row, name, version)
            model.step, model.metrics = step, metrics
            session.add(model)
            session.flush()
            tell(
                self._database,
                session,
                row.id,
                f"Checkpoint created at step {step} with the name {name}",
                key=f"checkpoint-{step}",
            )
            return model_of(model)

    def validated(self, hyperparameters: dict[str, Any]) -> Job:
        """The files are good: the job waits for its turn, with these numbers in place of auto."""
        with self._held() as (session, row):
            row.status = "queued"
            row.validated_at = self._database.now(session)
            row.hyperparameters = hyperparameters
            tell(self._database, session, row.id, "Files validated, moving job to queued state")
            return self._let_go(row)

    def fail(self, code: str, message: str, param: str | None = None) -> Job:
        """The job has failed, for good."""
        with self._held() as (session, row):
            row.status = "failed"
            row.finished_at = self._database.now(session)
            row.error = {"code": code, "message": message, "param": param}
            tell(self._database, session, row.id, f"The job failed: {message}", level="error")
            return self._let_go(row)

    def succeed(self, version: Version, *, trained_tokens: int, result_files: list[str]) -> Job:
        """The job has made `version`, which can be asked for by its model's name from now on."""
        with self._held() as (session, row):
            name = self._model_name(row)
            session.add(self._model(session, row, name, version))
            row.status = "succeeded"
            row.finished_at = self._database.now(session)
            row.fine_tuned_model = name
            row.version = version.number
            row.trained_tokens = trained_tokens
            row.result_files = result_files
            tell(self._database, session, row.id, f"New fine-tuned model created: {name}")
            tell(self._database, session, row.id, "The job has successfully completed")
            return self._let_go(row)

    def give_back(self, message: str, *, level: Level = "info", key: str | None = None) -> Job:
        """Put a job that was begun back into the queue."""
        with self._held() as (session, row):
            row.status = "validating_files" if row.validated_at is None else "queued"
            tell(self._database, session, row.id, message, level=level, key=key)
            return self._let_go(row)

    def release(self) -> None:
        """Nothing works on the job any more; where the database is away the lease will run out."""
        try:
            with self._database.writing() as session:
                row = session.get(JobRow, self.job.id)
                if row is not None and row.attempt == self.attempt:
                    self._let_go(row)
        except RegistryUnavailable as error:
            logger.warning("%s is not released: %s", self.job.id, error)

    @contextmanager
    def _held(self) -> Iterator[tuple[Session, JobRow]]:
        with self._database.writing() as session:
            row = session.get(JobRow, self.job.id)
            if row is None or row.attempt != self.attempt:
                raise LeaseLost(f"another worker has {self.job.id}")
            if row.worker is None or row.status != self.job.status:
                raise LeaseLost(f"{self.job.id} is {row.status}")
            yield session, row

    def _let_go(self, row: JobRow) -> Job:
        row.worker = row.lease_until = row.estimated_finish = None
        return job_of(row)

    def _model_name(self, row: JobRow) -> str:
        return model_name(row.base, row.tenant, row.suffix, row.id)

    def _model(self, session: Session, row: JobRow, name: str, version: Version) -> ModelRow:
        return ModelRow(
            name=name,
            id=new_id("ftckpt"),
            tenant=row.tenant,
            adapter=version.name,
            number=version.number,
            job_id=row.id,
            created_at=self._database.now(session),
        )
