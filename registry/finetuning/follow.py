"""Follow a job to its end: a live line of its loss on a terminal, plain lines elsewhere.

running  step 30/120  loss 0.523 █▇▅▄▃▂▂▁  held-out 0.612  812 tokens/s  2 min 10 s left
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from registry.errors import RegistryUnavailable
from registry.finetuning.objects import Event, Job
from registry.finetuning.tables_view import STYLES, event_line, span, step_of

if TYPE_CHECKING:
    from registry.store import Registry

POLL_SECONDS = 0.5
_SECONDS_BETWEEN_LINES = 10.0
_BARS = "▁▂▃▄▅▆▇█"
_WIDEST, _NARROWEST = 40, 8
_NO_WORKER = "No worker is there to run it: start one with lorikeet worker"


class Teller(Protocol):
    """Who is told how a job goes."""

    def note(self, text: str) -> None:
        """Something that is no event of the job."""

    def events(self, events: Sequence[Event]) -> None:
        """What has happened since the last call, the oldest first."""

    def stands(self, job: Job) -> None:
        """How the job stands now."""


def follow(registry: "Registry", job_id: str, teller: Teller) -> Job:
    """Tell all that happens to a job until it is finished; returns it as it ended.

    While the database is away it is asked again. Raises UnknownJob.
    """
    last, lonely, away = 0, False, False
    while True:
        try:
            job = registry.jobs.get(None, job_id)  # before its events, for none to be missed
            happened = registry.jobs.events_since(job_id, last)
            waits = job.status in ("validating_files", "queued")
            if waits and not lonely and not registry.queue.workers():
                lonely = True
                teller.note(_NO_WORKER)
        except RegistryUnavailable as error:
            if not away:
                teller.note(f"{error.message}; asking again until it can be")
            away = True
        else:
            away = False
            if happened:
                last = happened[-1][0]
                teller.events([event for _, event in happened])
            elif job.finished:
                return job
            teller.stands(job)
            if happened and job.finished:
                continue
        time.sleep(POLL_SECONDS)


@contextmanager
def telling(console: Console) -> Iterator[Teller]:
    """A teller for `console`: a live line on a terminal, plain lines where it is none."""
    if not console.is_terminal:
        yield PlainTeller(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveTeller(live)


class PlainTeller:
    """A line for each message; of the steps one every ten seconds, and each held-out loss."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = -_SECONDS_BETWEEN_LINES

    def note(self, text: str) -> None:
        """A line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def events(self, events: Sequence[Event]) -> None:
        """Lines."""
        steps = [event for event in events if event.type == "metrics"]
        now = time.monotonic()
        due = steps[-1] if steps and now - self._told >= _SECONDS_BETWEEN_LINES else None
        if due is not None:
            self._told = now
        for event in events:
            if event.type == "message" or event is due or _held_out(event) is not None:
                self._console.print(event_line(event), soft_wrap=True)

    def stands(self, job: Job) -> None:
        """Nothing: the events tell it."""


class LiveTeller:
    """One line that is kept up to date, messages above it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._losses: list[float] = []
        self._held_out: float | None = None
        self._newest: Event | None = None

    def note(self, text: str) -> None:
        """A line above."""
        self._live.console.print(text, markup=False, highlight=False)

    def events(self, events: Sequence[Event]) -> None:
        """Messages above, figures into the line."""
        for event in events:
            if event.type == "message":
                self._live.console.print(event_line(event))
                continue
            self._newest = event
            loss, held_out = (event.data or {}).get("train_loss"), _held_out(event)
            if loss is not None:
                self._losses.append(float(loss))
            self._held_out = self._held_out if held_out is None else held_out

    def stands(self, job: Job) -> None:
        """The line."""
        self._live.update(self.line(job, self._live.console.width))

    def line(self, job: Job, width: int) -> Text:
        """The line on a terminal of `width` columns."""
        data = {} if self._newest is None else self._newest.data or {}
        before, after = [step_of(data)], []
        if self._losses:
            before.append(f"loss {self._losses[-1]:.3f}")
        if self._held_out is not None:
            after.append(f"held-out {self._held_out:.3f}")
        if data.get("tokens_per_second"):
            after.append(f"{data['tokens_per_second']:,.0f} tokens/s")
        if job.estimated_finish is not None:
            left = (job.estimated_finish - datetime.now(UTC)).total_seconds()
            after.append(f"{span(left)} left")
        start, end = "  ".join(filter(None, before)), "  ".join(after)
        room = width - len(job.status) - len(start) - len(end) - 6
        curve = sparkline(self._losses, max(_NARROWEST, min(_WIDEST, room)))
        parts: list[tuple[str, str]] = [
            (job.status, STYLES.get(job.status, "")),
            ("  " + start if start else "", ""),
            (" " + curve if curve else "", "cyan"),
            ("  " + end if end else "", ""),
        ]
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as bars, the lowest ▁ and the highest █, each the mean of its share of them."""
    if not values:
        return ""
    columns = min(width, len(values))
    edges = [index * len(values) // columns for index in range(columns + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    low, height = min(means), max(means) - min(means)
    top = len(_BARS) - 1
    return "".join(_BARS[round((mean - low) / height * top) if height else 0] for mean in means)


def _held_out(event: Event) -> float | None:
    data = event.data or {}
    for name in ("full_valid_loss", "valid_loss"):
        if data.get(name) is not None:
            return float(data[name])
    return None
