"""What is remembered of jobs between one attempt and the next."""

import json
import threading
import time
from contextlib import suppress

from train.runs.folder import write_json
from train.worker.order import JobFolder


class Attempts:
    """Counts what went wrong with a job, by kind, over restarts of the worker too.

    A full disk may keep the file from being written: then this process alone remembers.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, folder: JobFolder, kind: str) -> int:
        """One more of `kind`; how many there are now."""
        file = folder.path / "attempts.json"
        written: dict[str, int] = {}
        with suppress(OSError, ValueError):
            written = json.loads(file.read_text(encoding="utf-8"))
        key = (folder.path.name, kind)
        count = max(self._counts.get(key, 0), written.get(kind, 0)) + 1
        self._counts[key] = count
        with suppress(OSError):
            write_json(file, {**written, kind: count})
        return count


class Later:
    """Jobs that are not to be tried before some time has passed. For many threads."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str | None], float] = {}
        self._lock = threading.Lock()

    def put(self, job_id: str, seconds: float, device: str | None = None) -> None:
        """Do not try it for so long, on `device` or anywhere."""
        with self._lock:
            self._until[job_id, device] = time.monotonic() + seconds

    def ids(self, device: str | None = None) -> list[str]:
        """Those that are not wanted now, on `device`."""
        now = time.monotonic()
        with self._lock:
            self._until = {key: until for key, until in self._until.items() if until > now}
            return [job for job, where in self._until if where in (None, device)]
