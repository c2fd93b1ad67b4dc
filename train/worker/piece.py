"""A claimed job, from the claim until it is let go, whatever happens in between."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from registry import DiskFull, RegistryUnavailable, UnknownBase
from registry.disk import is_full
from registry.errors import LeaseLost, UnknownFile
from registry.finetuning.claim import Claim
from registry.finetuning.objects import Level
from train.errors import SettingsError
from train.worker.failures import (
    BASE_CHANGED,
    BASE_GONE,
    BUSY,
    DISK_FULL,
    INTERNAL,
    INVALID_FILE,
    INVALID_SETTINGS,
    KILLED,
    OUT_OF_MEMORY,
    OWN_FAULT,
)
from train.worker.lease import Lease, Stopping
from train.worker.order import Outcome
from train.worker.sweep import clear_away
from train.worker.workplace import Workplace

logger = logging.getLogger(__name__)

_BUSY_SECONDS = 5.0
_MOST_KILLED = 2
"""How often a child may be killed by the system before its job has failed."""
_LAST_TRIES = 5


class Piece(ABC):
    """A piece of work on a job: `run` it once."""

    def __init__(self, place: Workplace, claim: Claim) -> None:
        self.place, self.claim, self.job = place, claim, claim.job

    @abstractmethod
    def work(self, lease: Lease) -> None:
        """Do it, and bring the claim to an end."""

    def run(self) -> None:
        """Work on the job until it is done, given back, or no longer ours. Raises nothing."""
        settings = self.place.settings
        with Lease(
            self.claim,
            seconds=settings.lease_seconds,
            beat=settings.poll_seconds,
            stopping=self.place.stopping,
        ) as lease:
            try:
                self.work(lease)
            except LeaseLost:
                self._let_go()
            except Stopping:
                self.give_back("The worker was stopped; another one goes on with the job")
            except SettingsError as error:
                text = "; ".join(error.problems)
                self.failed(Outcome("failed", INVALID_SETTINGS, text, "lorikeet"))
            except UnknownFile as error:
                code = INVALID_FILE["training_file"]
                self.failed(Outcome("failed", code, error.message, "training_file"))
            except UnknownBase as error:
                logger.warning("%s: %s", self.job.id, error)
                self.failed(Outcome("failed", BASE_CHANGED, BASE_GONE, "model"))
            except DiskFull as error:
                logger.warning("%s: %s", self.job.id, error)
                self.failed(Outcome("failed", DISK_FULL))
            except RegistryUnavailable as error:
                logger.warning("%s: %s", self.job.id, error)
                self.place.later.put(self.job.id, settings.retry_seconds)
                self.give_back("The server's registry could not be used", key="registry-away")
            except Exception as error:
                logger.exception("%s failed", self.job.id)
                self.failed(
                    Outcome("failed", DISK_FULL)
                    if is_full(error)
                    else Outcome("failed", INTERNAL, OWN_FAULT)
                )

    def may_go_on(self) -> None:
        """Raise Stopping where the worker ends."""
        if self.place.stopping.is_set():
            raise Stopping

    def may_go_on_for(self, seconds: float) -> Callable[[], None]:
        """`may_go_on`, which raises TimeoutError once so many seconds are over."""
        until = time.monotonic() + seconds

        def may_go_on() -> None:
            self.may_go_on()
            if time.monotonic() > until:
                raise TimeoutError

        return may_go_on

    def failed(self, outcome: Outcome) -> None:
        """What becomes of the job after a failure: it has failed, or it is tried again."""
        settings, folder = self.place.settings, self.place.folder(self.job)
        match outcome.code:
            case "busy":
                self.place.later.put(self.job.id, _BUSY_SECONDS)
                self.give_back("Another process still works on the job", key=BUSY)
            case "disk_full":
                count = self.place.attempts.add(folder, DISK_FULL)
                if count >= settings.most_attempts:
                    text = f"The server's disk was full, {count} times."
                    self._last(lambda: self.claim.fail(DISK_FULL, text))
                    return
                self.place.later.put(self.job.id, settings.retry_seconds)
                text = "The server's disk is full; the job goes on when there is room again"
                self.give_back(text, level="warn", key=f"disk-full-{count}")
            case "killed":
                count = self.place.attempts.add(folder, KILLED)
                if count >= _MOST_KILLED:
                    text = (
                        "The job's process was killed by the server's operating system, most "
                        "likely because no memory was left. Lower batch_size or "
                        "lorikeet.max_length, or shorten the rows."
                    )
                    self._last(lambda: self.claim.fail(OUT_OF_MEMORY, text))
                    return
                text = "The job's process was killed by the operating system; it is tried once more"
                self.give_back(text, level="warn", key=f"killed-{count}")
            case code:
                logger.warning("%s failed: %s %s", self.job.id, code, outcome.message)
                self._last(
                    lambda: self.claim.fail(
                        code or INTERNAL, outcome.message or OWN_FAULT, outcome.param
                    )
                )

    def give_back(self, message: str, *, level: Level = "info", key: str | None = None) -> None:
        """Put the job back into the queue."""
        logger.info("%s: %s", self.job.id, message)
        self._last(lambda: self.claim.give_back(message, level=level, key=key))

    def _last(self, do: Callable[[], object]) -> None:
        """The last word on the claim; where the database stays away, the lease runs out."""
        for _ in range(_LAST_TRIES):
            try:
                do()
                return
            except LeaseLost:
                self._let_go()
                return
            except (RegistryUnavailable, DiskFull) as error:
                logger.warning("%s: %s", self.job.id, error)
                time.sleep(self.place.settings.poll_seconds)

    def _let_go(self) -> None:
        """The job was paused, cancelled or taken over; nothing of ours works on it any more."""
        logger.info("%s is no longer ours", self.job.id)
        if self.place.is_cancelled(self.job):
            clear_away(self.place.registry, self.job.id)
        self.claim.release()
