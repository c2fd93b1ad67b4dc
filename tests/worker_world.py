"""A registry with a base, files and jobs in it, and workers for them."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from registry import Base, Registry
from registry.finetuning.objects import File, Job
from registry.finetuning.request import JobRequest
from train.worker.devices import Device
from train.worker.launch import Launch
from train.worker.recipe import resolved
from train.worker.settings import WorkerSettings
from train.worker.worker import Worker

COLOURS = ("blue", "green", "white")
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What colour is thing {n}?"},
            {"role": "assistant", "content": COLOURS[n % 3]},
        ]
    }
    for n in range(24)
]
QUICK: dict[str, Any] = {"poll_seconds": 0.05, "lease_seconds": 5, "retry_seconds": 60}
CPU = Device("cpu")


@dataclass(frozen=True)
class World:
    """A registry, the tiny base, and short ways to put files and jobs into it."""

    registry: Registry
    base: Base

    def upload(
        self, rows: bytes | Sequence[object] = ROWS, tenant: str = "acme", name: str = "rows.jsonl"
    ) -> File:
        """A file of rows."""
        if not isinstance(rows, bytes):
            rows = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with self.registry.files.receiving() as incoming:
            incoming.write(rows)
            return self.registry.files.add(
                incoming, tenant=tenant, purpose="fine-tune", filename=name
            )

    def job(
        self,
        rows: bytes | Sequence[object] = ROWS,
        tenant: str = "acme",
        held_out: Sequence[object] | None = None,
        **request: Any,
    ) -> Job:
        """A job on these rows."""
        validation = None
        if held_out is not None:
            validation = self.upload(held_out, tenant, "held-out.jsonl").id
        return self.registry.jobs.create(
            JobRequest(
                model=self.base.id,
                training_file=self.upload(rows, tenant).id,
                validation_file=validation,
                **request,
            ),
            tenant=tenant,
            base=self.base,
            place=str(self.base.path),
        )

    def queued(self, *args: Any, **request: Any) -> Job:
        """A job whose files are checked."""
        job = self.job(*args, **request)
        self._check_all()
        return job

    def many(self, count: int, *, tenant: str) -> list[Job]:
        """Jobs whose files are checked, all on the same one."""
        request = JobRequest(model=self.base.id, training_file=self.upload(tenant=tenant).id)
        place = str(self.base.path)
        jobs = [
            self.registry.jobs.create(request, tenant=tenant, base=self.base, place=place)
            for _ in range(count)
        ]
        self._check_all()
        return jobs

    def _check_all(self) -> None:
        while claim := self.registry.queue.claim_validation("checker", lease_seconds=9):
            claim.validated(resolved(claim.job.hyperparameters, rows=4))

    def now(self, job: Job) -> Job:
        """The job as it stands."""
        return self.registry.jobs.get(None, job.id)

    def messages(self, job: Job) -> list[str]:
        """What was told of it, the oldest first."""
        return [event.message for _, event in self.registry.jobs.events_since(job.id, 0)]

    def worker(self, launch: Launch, name: str = "w", device: Device = CPU, **more: Any) -> Worker:
        """A worker on one device; `clock` is its `now`."""
        clock = {"now": more.pop("clock")} if "clock" in more else {}
        settings = WorkerSettings(name=name, **{**QUICK, **more})
        return Worker(self.registry, settings, [device], launch=launch, **clock)

    def work(self, launch: Launch, **more: Any) -> None:
        """Let a worker do what there is to do now."""
        self.worker(launch, once=True, **more).run()


@contextmanager
def at_work(worker: Worker) -> Iterator[threading.Thread]:
    """The worker runs meanwhile; it is stopped at the end, and has to end."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield thread
    finally:
        worker.stop()
        thread.join(60)
        assert not thread.is_alive()


def wait_until(reached: Callable[[], Any], seconds: float = 60) -> Any:
    """What `reached` gives when it is true."""
    until = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < until, "it was not reached"
        time.sleep(0.02)
    return found
