"""The second piece of work on a job: train it, and publish what came of it."""

import logging
import math
from collections.abc import Sequence

from registry import (
    Base,
    DiskFull,
    LorikeetError,
    RegistrySettings,
    RegistryUnavailable,
    UnknownBase,
    Version,
    resolve_base,
)
from registry.errors import LeaseLost
from registry.finetuning.claim import Claim
from registry.finetuning.objects import Job, Level
from train.errors import RunDamaged, UnknownRun
from train.handoff.admin_key import admin_key
from train.runs.folder import RunFolder
from train.settings import TrainSettings
from train.worker.devices import Device
from train.worker.failures import OUT_OF_MEMORY
from train.worker.finish import Finish
from train.worker.headroom import Verdict, judge
from train.worker.lease import Lease
from train.worker.order import Outcome
from train.worker.piece import Piece
from train.worker.progress_events import Tail
from train.worker.recipe import settings_for
from train.worker.workplace import Workplace

logger = logging.getLogger(__name__)

_EVENTS_SCANNED = 100
_INFO: Level = "info"
_WARN: Level = "warn"


class WindowClosed(Exception):
    """The hours of training are over."""


class Training(Piece):
    """Trains on `device`, one of the worker's; what an earlier attempt has done is not done again.

    `devices` are all of them.
    """

    def __init__(
        self, place: Workplace, claim: Claim, device: Device, devices: Sequence[Device]
    ) -> None:
        super().__init__(place, claim)
        self.device, self.devices = device, devices
        self.run_folder = RunFolder(place.registry.settings.runs / self.job.id)

    def work(self, lease: Lease) -> None:
        """running → succeeded, failed, or queued again."""
        settings = settings_for(self.job)
        finish = Finish(self.place.registry, lease, base_of)
        is_trained = self._is_trained()
        if not is_trained and not self._has_room(settings):
            return
        lease.patiently(self.claim.begins)
        if not is_trained:
            try:
                outcome = self._train(lease, settings, finish)
            except WindowClosed:
                window = self.place.settings.train_window
                self.give_back(
                    f"The hours of training, {window}, are over; the job goes on in the next ones"
                )
                return
            if outcome.status == "failed":
                self.failed(outcome)
                return
            if outcome.status == "stopped":
                self.give_back("The training was stopped; it goes on from its last checkpoint")
                return
        logger.info("%s is trained", self.job.id)
        finish.run(lambda version: self._certify(lease, settings, version))
        logger.info("%s has succeeded", self.job.id)

    def _is_trained(self) -> bool:
        try:
            return self.run_folder.record.status == "succeeded"
        except (UnknownRun, RunDamaged):
            return False

    def _has_room(self, settings: TrainSettings) -> bool:
        """Whether the device has the memory; else the job has failed or waits."""
        rows = self.place.folder(self.job).rows()

        def on(device: Device) -> Verdict:
            return judge(self.job, settings, rows, device, self.place.registry.settings)

        verdict = on(self.device)
        if verdict.when == "never":
            others = [device for device in self.devices if device != self.device]
            if all(on(device).when == "never" for device in others):
                self.failed(Outcome("failed", OUT_OF_MEMORY, verdict.message))
            else:
                self.place.later.put(self.job.id, math.inf, self.device.name)
                text = f"The job is too large for device {self.device.name}; it waits for another"
                self.give_back(text, key=f"too-large-{self.device.name}")
        elif verdict.when == "later":
            self.place.later.put(self.job.id, self.place.settings.retry_seconds)
            hour = f"{self.place.now():%Y%m%d%H}"
            self.give_back(verdict.message, level="warn", key=f"memory-{hour}")
        return verdict.when == "fits"

    def _train(self, lease: Lease, settings: TrainSettings, finish: Finish) -> Outcome:
        """Have a child train, and tell how it goes."""
        order = lease.patiently(lambda: self.place.order("train", self.job, settings))
        tail = Tail(self.run_folder.metrics, lease.patiently(self._told))

        def on_beat() -> None:
            self.may_go_on()
            if not self.place.settings.train_window.is_open(self.place.now()):
                raise WindowClosed
            try:
                self._tell(lease, tail)
                finish.checkpoints()
            except (RegistryUnavailable, DiskFull) as error:
                logger.warning("%s: %s", self.job.id, error)

        outcome = self.place.child(lease, order, self.device.environment, on_beat)
        lease.patiently(lambda: self._tell(lease, tail, ended=outcome.status == "done"))
        return outcome

    def _told(self) -> int:
        """The last step whose figures an earlier attempt told."""
        events = self.place.registry.jobs.events(None, self.job.id, limit=_EVENTS_SCANNED).data
        steps = (event.data["step"] for event in events if event.type == "metrics" and event.data)
        return next(steps, 0)

    def _tell(self, lease: Lease, tail: Tail, *, ended: bool = False) -> None:
        for step in tail.new(ended=ended):
            self.claim.metrics(step.step, step.message, step.data())
            tail.told(step.step)
        if tail.last is not None:
            lease.tell(tail.last.finish(), tail.last.line["tokens"])

    def _certify(self, lease: Lease, settings: TrainSettings, version: Version) -> None:
        """Compare what the server says with what was trained, where there is a server."""
        server = self.place.settings.server
        if server is None or not self.job.options.get("certify", True):
            return
        on_beat = self.may_go_on_for(self.place.settings.certify_seconds)
        problem = "The adapter could not be certified; the log of the job says why"
        try:
            order = self.place.order(
                "certify", self.job, settings, reference=version.reference, server=server
            )
            with admin_key(self.place.registry) as secret:
                outcome = self.place.child(
                    lease, order, self.device.environment, on_beat, secret=secret
                )
        except LeaseLost:
            raise
        except (LorikeetError, TimeoutError) as error:
            logger.warning("%s is not certified: %s", self.job.id, error)
            outcome = Outcome("failed")
        if outcome.status != "done":
            text, level = problem, _WARN
        elif outcome.values["passed"]:
            text, level = passed_told(outcome.values), _INFO
        else:
            reasons = "; ".join(outcome.values["problems"])
            text, level = f"The certificate has not passed: {reasons}", _WARN
        lease.patiently(lambda: self.claim.note(text, level=level, key="certificate"))


def base_of(job: Job, settings: RegistrySettings) -> Base:
    """The base that the job was made for. Raises UnknownBase where it is another one now."""
    base = resolve_base(job.base_place, settings)
    if base.digest != job.base_digest:
        raise UnknownBase(f"{job.base} is no longer the base that {job.id} was made for")
    return base


def passed_told(certificate: dict[str, object]) -> str:
    """The certificate in a sentence."""
    return (
        "The certificate has passed: the log-probabilities served differ from those trained by "
        f"{certificate['max_difference']:.2g} at most, over {certificate['tokens']} tokens of "
        f"{certificate['rows']} held-out rows"
    )
