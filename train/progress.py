"""Telling how a run goes: live on a terminal, plain lines elsewhere, nothing at all in tests."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step: its number of `total`, its loss, tokens and seconds since the start."""

    number: int
    total: int
    loss: float
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the rows seen so far, a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """What the remaining steps take at the speed so far."""
        return self.seconds / self.number * (self.total - self.number) if self.number else 0.0


class Reporter(Protocol):
    """Who is told how a run goes."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def making(self, what: str, fraction: float) -> None:
        """A slow preparation is at `fraction`, 0 to 1."""

    def step(self, step: Step) -> None:
        """An optimiser step is done."""

    def answered(self, what: str, done: int, total: int) -> None:
        """`done` of `total` held-out rows are evaluated, `what` says by whom."""


class SilentReporter:
    """Tells nobody."""

    def note(self, text: str) -> None:
        """Nothing."""

    def making(self, what: str, fraction: float) -> None:
        """Nothing."""

    def step(self, step: Step) -> None:
        """Nothing."""

    def answered(self, what: str, done: int, total: int) -> None:
        """Nothing."""


class PlainReporter:
    """A line at the start and end of each part and every ten seconds: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ("", 0.0)

    def note(self, text: str) -> None:
        """A line."""
        self._line(text)

    def making(self, what: str, fraction: float) -> None:
        """A line, now and then."""
        self._seldom(what, f"{what} {fraction:.0%}", is_end=fraction >= 1)

    def step(self, step: Step) -> None:
        """A line, now and then."""
        text = (
            f"step {step.number}/{step.total}  loss {step.loss:.3f}  "
            f"{step.tokens_per_second:.0f} tokens/s  {step.seconds_left:.0f} s left"
        )
        self._seldom("step", text, is_end=step.number == step.total)

    def answered(self, what: str, done: int, total: int) -> None:
        """A line, now and then."""
        self._seldom(what, f"evaluating {what} {done}/{total}", is_end=done >= total)

    def _seldom(self, part: str, text: str, *, is_end: bool) -> None:
        now = time.monotonic()
        last_part, last_time = self._last
        if is_end or part != last_part or now - last_time >= _SECONDS_BETWEEN_LINES:
            self._last = (part, now)
            self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveReporter:
    """A bar for each part: step, loss, tokens/s and time left while training."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)

    def making(self, what: str, fraction: float) -> None:
        """A bar."""
        self._update(what, round(fraction * 100), 100, "")

    def step(self, step: Step) -> None:
        """The training's bar."""
        detail = f"loss {step.loss:.3f}  {step.tokens_per_second:.0f} tokens/s"
        self._update("training", step.number, step.total, detail)

    def answered(self, what: str, done: int, total: int) -> None:
        """A bar for each model that is evaluated."""
        self._update(f"evaluating {what}", done, total, "")

    def _update(self, part: str, done: int, total: int, detail: str) -> None:
        if part not in self._tasks:
            self._tasks[part] = self._progress.add_task(part, total=total, detail=detail)
        self._progress.update(self._tasks[part], completed=done, total=total, detail=detail)


@contextmanager
def reporting(console: Console) -> Iterator[Reporter]:
    """A reporter for `console`: live bars on a terminal, plain lines where it is none."""
    if not console.is_terminal:
        yield PlainReporter(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield LiveReporter(progress)
