"""The worker: lanes that look for work, one for validations and one for each device.

with Registry.open() as registry:
    Worker(registry, WorkerSettings(), find_devices(("auto",))).run()
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from registry import DiskFull, Registry, RegistryUnavailable
from train.worker.devices import Device
from train.worker.launch import Launch, Launcher
from train.worker.piece import Piece
from train.worker.settings import WorkerSettings
from train.worker.sweep import sweep
from train.worker.training import Training
from train.worker.validation import Validation
from train.worker.workplace import Workplace

logger = logging.getLogger(__name__)

_SEEN_SECONDS = 5.0
_SWEEP_SECONDS = 3600.0
_LONGEST_PAUSE = 30.0

Turn = Callable[[], bool]
"""Does one piece of work; False where there was none."""


class Worker:
    """Works until it is told to stop. `launch` and `now` are for tests."""

    def __init__(
        self,
        registry: Registry,
        settings: WorkerSettings,
        devices: Sequence[Device],
        *,
        launch: Launch | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._registry, self._settings, self._devices = registry, settings, list(devices)
        self._place = Workplace(registry, settings, launch or Launcher(registry.settings), now)
        self._doing: dict[str, str] = {}
        self._error: Exception | None = None
        self._seen = self._swept = float("-inf")

    def run(self) -> None:
        """Work. With `once`, until nothing is left that can be worked on now.

        Raises RegistryUnavailable with `once` alone; else the database is waited for.
        """
        names = [device.name for device in self._devices]
        logger.info("worker %s on %s", self._settings.name, ", ".join(names))
        trainings: list[Turn] = [
            lambda device=device: self._train(device)  # type: ignore[misc]
            for device in self._devices
        ]
        self._tidy()
        try:
            if self._settings.once:
                self._together([self._validate])
                self._together(trainings)
            else:
                self._together([self._validate, *trainings])
        finally:
            self._sign(self._registry.queue.gone, self._settings.name)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Let trainings save a checkpoint, give all jobs back, and end."""
        self._place.stopping.set()

    def kill(self) -> None:
        """End children at once; for use after `stop`."""
        self._place.stopping.set()
        self._place.killing.set()

    def _together(self, turns: Sequence[Turn]) -> None:
        """A thread for each, until all have ended; signs of life meanwhile."""
        lanes = [threading.Thread(target=self._lane, args=(turn,)) for turn in turns]
        for lane in lanes:
            lane.start()
        while any(lane.is_alive() for lane in lanes):
            self._tidy()
            for lane in lanes:
                lane.join(self._settings.poll_seconds / len(lanes))

    def _tidy(self) -> None:
        """What is due now and then: a sign of life, clearing away."""
        now = time.monotonic()
        if now - self._seen >= _SEEN_SECONDS:
            self._seen = now
            doing = "; ".join(list(self._doing.values())) or "waiting for jobs"
            names = [device.name for device in self._devices]
            self._sign(self._registry.queue.seen, self._settings.name, names, doing)
        if now - self._swept >= _SWEEP_SECONDS:
            self._swept = now
            self._sign(sweep, self._registry)

    def _sign(self, do: Callable[..., None], *arguments: object) -> None:
        try:
            do(*arguments)
        except (RegistryUnavailable, DiskFull) as error:
            logger.warning("%s", error)

    def _lane(self, turn: Turn) -> None:
        stopping, poll = self._place.stopping, self._settings.poll_seconds
        pause = poll
        while not stopping.is_set():
            try:
                found = turn()
                pause = poll
            except (RegistryUnavailable, DiskFull) as error:
                if self._settings.once:
                    self._error = error
                    return
                logger.warning("%s; trying again in %.0f s", error, pause)
                found, pause = False, min(pause * 2, _LONGEST_PAUSE)
            except Exception as error:
                logger.exception("no work was found")
                if self._settings.once:
                    self._error = error
                    return
                found, pause = False, _LONGEST_PAUSE
            if not found:
                if self._settings.once:
                    return
                stopping.wait(pause)

    def _validate(self) -> bool:
        claim = self._registry.queue.claim_validation(
            self._settings.name,
            lease_seconds=self._settings.lease_seconds,
            skip=self._place.later.ids(),
        )
        if claim is None:
            return False
        what = f"checking the files of {claim.job.id}"
        self._work("validation", what, Validation(self._place, claim))
        return True

    def _train(self, device: Device) -> bool:
        if not self._settings.train_window.is_open(self._place.now()):
            return False
        with device.held(self._registry.settings) as ours:
            if not ours:
                return False
            claim = self._registry.queue.claim_training(
                self._settings.name,
                lease_seconds=self._settings.lease_seconds,
                most_per_tenant=self._settings.tenant_concurrency,
                skip=self._place.later.ids(device.name),
            )
            if claim is None:
                return False
            what = f"training {claim.job.id} on {device.name}"
            self._work(device.name, what, Training(self._place, claim, device, self._devices))
            return True

    def _work(self, lane: str, what: str, piece: Piece) -> None:
        logger.info("%s", what)
        self._doing[lane] = what
        try:
            piece.run()
        finally:
            del self._doing[lane]
