"""What all work on jobs shares: stores, settings, how children are started, when to stop."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from registry import Registry
from registry.disk import translated
from registry.errors import BlobDamaged, LeaseLost, LorikeetError
from registry.finetuning.objects import File, Job
from train.settings import TrainSettings
from train.worker.attempts import Attempts, Later
from train.worker.failures import DISK_FULL, INTERNAL, KILLED
from train.worker.launch import DISK_FULL_EXIT, Launch, Running
from train.worker.lease import Lease
from train.worker.order import JobFolder, Order, Outcome, Source, Work
from train.worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

OnBeat = Callable[[], None]
"""Called while a child works; what it raises ends the child."""


@dataclass(frozen=True)
class Workplace:
    """Of one worker, for all its threads. `now` is the local time."""

    registry: Registry
    settings: WorkerSettings
    launch: Launch
    now: Callable[[], datetime] = datetime.now
    stopping: threading.Event = field(default_factory=threading.Event)
    killing: threading.Event = field(default_factory=threading.Event)
    later: Later = field(default_factory=Later)
    attempts: Attempts = field(default_factory=Attempts)

    def folder(self, job: Job) -> JobFolder:
        """The job's folder."""
        return JobFolder(self.registry.settings, job.id)

    def order(self, work: Work, job: Job, settings: TrainSettings, **more: str) -> Order:
        """The order for a child. Raises UnknownFile."""
        files = self.registry.files

        def source(file: File) -> Source:
            return Source(str(files.path(file)), file.sha256, file.filename)

        validation = job.validation_file
        return Order(
            work=work,
            job=job.id,
            adapter=job.adapter,
            base=job.base,
            base_place=job.base_place,
            base_digest=job.base_digest,
            training=source(files.get(None, job.training_file)),
            validation=source(files.get(None, validation)) if validation else None,
            settings=_values(settings),
            hyperparameters=job.hyperparameters,
            **more,
        )

    def child(
        self,
        lease: Lease,
        order: Order,
        environment: Mapping[str, str],
        on_beat: OnBeat,
        secret: str | None = None,
    ) -> Outcome:
        """Have a child do what is ordered; its outcome, also where it was killed.

        What `on_beat` raises, and LeaseLost, end the child and pass: in good order, but at once
        where its job is cancelled. Raises UnknownFile, DiskFull or RegistryUnavailable where none
        can start.
        """
        job = lease.claim.job
        folder = self.folder(job)
        with self._files(job):
            with translated(self.registry.settings, f"{job.id} cannot be worked on"):
                folder.give(order)
                child = self.launch(folder.path, environment, secret)
            code = self._wait(lease, child, on_beat)
        outcome = folder.outcome()
        if outcome is not None:
            return outcome
        logger.warning("%s: its process ended with code %d; see %s", job.id, code, folder.log)
        if code == DISK_FULL_EXIT:
            return Outcome("failed", DISK_FULL)
        return Outcome("failed", KILLED if code < 0 else INTERNAL)

    def is_cancelled(self, job: Job) -> bool:
        """Whether nothing of the job is wanted any more, as far as the database tells."""
        try:
            return self.registry.jobs.get(None, job.id).status == "cancelled"
        except LorikeetError:
            return False

    @contextmanager
    def _files(self, job: Job) -> Iterator[None]:
        """The job's files are on this machine; of one that is damaged the child tells."""
        files = self.registry.files
        with ExitStack() as held:
            for file_id in filter(None, (job.training_file, job.validation_file)):
                with suppress(BlobDamaged):
                    held.enter_context(files.fetch(files.get(None, file_id)))
            yield

    def _wait(self, lease: Lease, child: Running, on_beat: OnBeat) -> int:
        """The child's exit code; it is ended where it must not go on."""
        try:
            while (code := child.wait(self.settings.poll_seconds)) is None:
                lease.check()
                on_beat()
        except LeaseLost:
            self._end(child, kindly=not self.is_cancelled(lease.claim.job))
            raise
        except BaseException:
            self._end(child, kindly=True)
            raise
        return code

    def _end(self, child: Running, *, kindly: bool) -> None:
        if kindly:
            child.stop()
            until = time.monotonic() + self.settings.grace_seconds
            while time.monotonic() < until and not self.killing.is_set():
                if child.wait(min(0.2, self.settings.grace_seconds)) is not None:
                    return
        child.kill()


def _values(settings: TrainSettings) -> dict[str, Any]:
    """As JSON, for a child to read again."""
    return settings.model_dump(mode="json", exclude={"few_shot_data"})
