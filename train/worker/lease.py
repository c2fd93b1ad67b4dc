"""Signs of life for a claimed job, from a thread of its own, so that the rest may take its time."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar

from registry import DiskFull, RegistryUnavailable
from registry.errors import LeaseLost
from registry.finetuning.claim import Claim

logger = logging.getLogger(__name__)
T = TypeVar("T")

_LONGEST_PAUSE = 30.0


class Stopping(Exception):
    """The worker ends: let go of the job."""


class Lease:
    """Renews a claim until the end of the context; `lost` is set when the job is taken away.

    While the database is away it tries again, with growing pauses: whether the job is still ours
    then shows when it is back.
    """

    def __init__(
        self, claim: Claim, *, seconds: float, beat: float, stopping: threading.Event
    ) -> None:
        self.claim = claim
        self.lost = threading.Event()
        self._seconds, self._beat, self._stopping = seconds, beat, stopping
        self._ended = threading.Event()
        self._finish: datetime | None = None
        self._tokens: int | None = None
        self._thread = threading.Thread(target=self._renew, name=f"lease {claim.job.id}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def tell(self, finish: datetime | None, tokens: int | None) -> None:
        """What the next sign of life says: when the job will be done, what it has read so far."""
        self._finish, self._tokens = finish, tokens

    def check(self) -> None:
        """Raise LeaseLost where the job is no longer ours."""
        if self.lost.is_set():
            raise LeaseLost(f"{self.claim.job.id} was taken away")

    def patiently(self, do: Callable[[], T]) -> T:
        """What `do` gives; where the database is away it is tried again, with growing pauses.

        Raises LeaseLost, Stopping, and what else `do` raises.
        """
        pause = self._beat
        while True:
            self.check()
            try:
                return do()
            except RegistryUnavailable as error:
                logger.warning("%s waits for the database: %s", self.claim.job.id, error)
            if self._stopping.wait(pause):
                raise Stopping
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _renew(self) -> None:
        pause = self._beat
        while not self._ended.wait(pause):
            try:
                self.claim.renew(
                    self._seconds, estimated_finish=self._finish, trained_tokens=self._tokens
                )
                pause = self._beat
            except LeaseLost:
                self.lost.set()
                return
            except (RegistryUnavailable, DiskFull) as error:
                logger.warning("no sign of life of %s: %s", self.claim.job.id, error)
                pause = min(pause * 2, max(self._beat, self._seconds / 3))
            except Exception:
                logger.exception("no sign of life of %s", self.claim.job.id)
