"""What a server may lose under a long load: memory, file descriptors, leases and slots.

Memory and descriptors are read from the operating system, for a server on this machine whose
process is known; leases and slots from its metrics and its admin routes, where it has them.
"""

import json
import math
import re
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import psutil  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from loadtests.answer import Answer
from loadtests.chat import connect
from loadtests.verdict import Verdict

GROWTH = 0.02
"""Of memory in the second half of the load: from its first quarter to its last."""
SPARE_DESCRIPTORS = 8
"""What a pool may still open at rest: of a leak there is one for every few requests."""
REST_SECONDS = 20
"""How long a server may take to come to rest when the load has ended."""
STILL_SECONDS = 2
"""How long nothing may change before a server is at rest."""
_ERROR = re.compile(r"\b(ERROR|CRITICAL)\b")
Gauge = tuple[str, Mapping[str, str]]
"""A metric's name and the labels of its series."""
LEASES: Gauge = "lorikeet_leases", {}
SLOTS: Gauge = "lorikeet_slots", {"state": "used"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A server's process and all of its descendants, which are the engine; MiB in RAM."""

    seconds: float
    server_mib: float
    engine_mib: float
    server_descriptors: int
    engine_descriptors: int
    engine_processes: tuple[int, ...]


def sample(pid: int, begin: float) -> Sample:
    """Look at the processes now. Raises psutil.Error where the server has ended."""
    server = psutil.Process(pid)
    memory, descriptors, processes = 0.0, 0, []
    for child in server.children(recursive=True):
        with suppress(psutil.Error):  # one that has just ended
            memory += child.memory_info().rss / 1024**2
            descriptors += child.num_fds()
            processes.append(child.pid)
    return Sample(
        time.monotonic() - begin,
        server.memory_info().rss / 1024**2,
        memory,
        server.num_fds(),
        descriptors,
        tuple(sorted(processes)),
    )


class Watch:
    """Samples every `interval` seconds, from entering the context until leaving it."""

    def __init__(self, pid: int, interval: float) -> None:
        self.samples: list[Sample] = []
        self._pid = pid
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        begin = time.monotonic()
        with suppress(psutil.Error):  # the server has ended: its answers failed too
            while not self._ended.is_set():
                self.samples.append(sample(self._pid, begin))
                self._ended.wait(self._interval)


@dataclass(frozen=True)
class Gauges:
    """Of the server at `url`; without a metric of that name the answer is None."""

    url: str
    api_key: str = ""

    def read(self, gauge: Gauge) -> float | None:
        """The sum over the series with these labels."""
        name, labels = gauge
        try:
            with connect(self.url, self.api_key) as client:
                text = client.get("/metrics").raise_for_status().text
            families = list(text_string_to_metric_families(text))
        except (httpx.HTTPError, ValueError):
            return None
        values = [
            float(found.value)
            for family in families
            for found in family.samples
            if found.name == name and labels.items() <= found.labels.items()
        ]
        return sum(values) if values else None

    def rest(self, gauge: Gauge) -> float | None:
        """The gauge once it is 0, or what it still is after REST_SECONDS."""
        until = time.monotonic() + REST_SECONDS
        while (value := self.read(gauge)) and time.monotonic() < until:
            time.sleep(0.25)
        return value

    def unload_all(self) -> str | None:
        """Have every adapter unloaded, so that no slot has a reason to be in use; None if done.

        Otherwise the reason why it could not be.
        """
        try:
            with connect(self.url, self.api_key) as client:
                found = client.get("/admin/adapters").raise_for_status().json()["data"]
                for version in found:
                    if version["state"] == "loaded":
                        path = f"/admin/adapters/{version['id']}/unload"
                        client.post(path).raise_for_status()
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        return None


@dataclass
class Findings:
    """What was checked, and what could not be."""

    verdicts: list[Verdict] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def at_most(self, promise: str, value: float, goal: float) -> None:
        """Judge one figure."""
        self.verdicts.append(Verdict(promise, value, goal, at_most=True))

    def judge_processes(self, samples: Sequence[Sample], before: Sample, after: Sample) -> None:
        """Memory under load; descriptors at rest, before it and after it; the engine's life."""
        for what, mib in (
            ("server", [found.server_mib for found in samples]),
            ("engine", [found.engine_mib for found in samples]),
        ):
            if any(mib):
                promise = f"memory of the {what}, growth in the second half"
                self.at_most(promise, growth(mib), GROWTH)
            else:
                self.skipped.append(f"memory of the {what}: it has no process of its own")
        for what, more in (
            ("server", after.server_descriptors - before.server_descriptors),
            ("engine", after.engine_descriptors - before.engine_descriptors),
        ):
            self.at_most(f"file descriptors of the {what} at rest, more", more, SPARE_DESCRIPTORS)
        gone = set(before.engine_processes) - set(after.engine_processes)
        self.at_most("processes of the engine that ended", len(gone), 0)

    def judge_gauges(self, gauges: Gauges) -> None:
        """Leases at rest, and slots once every adapter was unloaded."""
        leases = gauges.rest(LEASES)
        if leases is None:
            self.skipped.append(f"leases: {gauges.url}/metrics has no {LEASES[0]}")
        else:
            self.at_most("leases at rest", leases, 0)
        if gauges.read(SLOTS) is None:
            self.skipped.append(f"slots: {gauges.url}/metrics has no {SLOTS[0]}")
        elif reason := gauges.unload_all():
            self.skipped.append(f"slots: the adapters could not be unloaded ({reason})")
        else:
            slots = gauges.rest(SLOTS)
            promise = "slots in use once all adapters were unloaded"
            self.at_most(promise, math.nan if slots is None else slots, 0)

    def judge_answers(self, answers: Sequence[Answer]) -> None:
        """No request may fail; a load without any has shown nothing."""
        failures = sum(answer.error is not None for answer in answers)
        self.at_most("failed requests", failures if answers else math.nan, 0)

    def judge_log(self, log: Path) -> None:
        """The server's own words: errors and stack traces."""
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        self.at_most("errors in the server's log", sum(map(is_error, lines)), 0)


def growth(values: Sequence[float]) -> float:
    """From the first quarter of the second half to its last, by their medians; a share.

    Not a number with fewer than eight values.
    """
    half = list(values[len(values) // 2 :])
    quarter = len(half) // 4
    if len(values) < 8:
        return math.nan
    early, late = statistics.median(half[:quarter]), statistics.median(half[-quarter:])
    return late / early - 1 if early else math.nan


def is_error(line: str) -> bool:
    """Whether a log line tells of an error, in words or as JSON with a level."""
    if line.startswith("{"):
        try:
            level = json.loads(line).get("level")
        except ValueError:
            return False
        return str(level).upper() in ("ERROR", "CRITICAL")
    return line.startswith("Traceback ") or _ERROR.search(line[:200]) is not None


def at_rest(pid: int) -> Sample:
    """A sample once the number of descriptors has not changed for STILL_SECONDS."""
    until = time.monotonic() + REST_SECONDS
    previous = sample(pid, 0)
    still_since = time.monotonic()
    while (now := time.monotonic()) < until and now - still_since < STILL_SECONDS:
        time.sleep(0.25)
        found = sample(pid, 0)
        if (found.server_descriptors, found.engine_descriptors) != (
            previous.server_descriptors,
            previous.engine_descriptors,
        ):
            still_since = now
        previous = found
    return previous
