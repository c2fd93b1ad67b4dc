"""What `metrics.jsonl` of a run says, as the events and figures of a job, by OpenAI's names."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from train.runs.metrics import Metrics

COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
"""Of the metrics file that a job gives back, in OpenAI's order."""

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One optimiser step; `whole` says that nothing about it is still to come."""

    step: int
    line: Line
    held_out: Line | None
    whole: bool

    @property
    def message(self) -> str:
        """`Step 3/120: training loss=0.52, validation loss=0.61`."""
        text = f"Step {self.step}/{self.line['total_steps']}: training loss={self.line['loss']:.2f}"
        if self.held_out is not None:
            text += f", validation loss={self.held_out['held_out_loss']:.2f}"
        return text

    def metrics(self) -> dict[str, Any]:
        """Of a checkpoint; all held-out rows are measured, so both kinds of `valid` are one."""
        figures = {
            "step": self.step,
            "train_loss": self.line["loss"],
            "train_mean_token_accuracy": self.line["mean_token_accuracy"],
        }
        if self.held_out is not None:
            for kind in ("valid", "full_valid"):
                figures[f"{kind}_loss"] = self.held_out["held_out_loss"]
                accuracy = self.held_out.get("held_out_token_accuracy")
                if accuracy is not None:
                    figures[f"{kind}_mean_token_accuracy"] = accuracy
        return figures

    def data(self) -> dict[str, Any]:
        """Of a `metrics` event."""
        seconds = self.line["seconds"]
        return {
            **self.metrics(),
            "total_steps": self.line["total_steps"],
            "epoch": self.line["epoch"],
            "learning_rate": self.line["learning_rate"],
            "tokens": self.line["tokens"],
            "tokens_per_second": round(self.line["tokens"] / seconds, 1) if seconds else 0.0,
        }

    def row(self) -> list[Any]:
        """Of the metrics file; "" where nothing was measured."""
        held_out = self.held_out or {}
        return [
            self.step,
            self.line["loss"],
            self.line["mean_token_accuracy"],
            held_out.get("held_out_loss", ""),
            held_out.get("held_out_token_accuracy", ""),
        ]

    def finish(self, now: datetime | None = None) -> datetime | None:
        """When the last step will be done, at the speed so far."""
        left = (self.line["total_steps"] - self.step) * self.line["seconds"] / self.step
        if not math.isfinite(left):
            return None
        return (now or datetime.now(UTC)) + timedelta(seconds=left)


def figures(lines: Iterable[Line]) -> Iterator[StepFigures]:
    """The steps that the lines tell of, in order."""
    step: Line | None = None
    held_out: Line | None = None
    for line in lines:
        if "loss" in line:
            if step is not None:
                yield StepFigures(step["step"], step, held_out, whole=True)
            step, held_out = line, None
        elif step is not None and line["step"] == step["step"] and "held_out_loss" in line:
            held_out = line
    if step is not None:
        whole = held_out is not None or not step.get("held_out_follows")
        yield StepFigures(step["step"], step, held_out, whole)


class Tail:
    """The steps of a run that were not told yet; the run's process writes on meanwhile."""

    def __init__(self, path: Path, told: int = 0) -> None:
        self._metrics = Metrics(path)
        self._path = path
        self._told = told
        self._seen = (-1, -1)
        self.last: StepFigures | None = None

    def new(self, *, ended: bool = False) -> list[StepFigures]:
        """Those that are whole, or all where the run has ended. `told` says what became of them."""
        try:
            stat = self._path.stat()
        except OSError:
            return []
        seen = (stat.st_ino, stat.st_size)
        if seen == self._seen and not ended:
            return []
        found = list(figures(self._metrics.lines()))
        self.last = found[-1] if found else None
        fresh = [step for step in found if step.step > self._told and (step.whole or ended)]
        if not fresh:
            self._seen = seen
        return fresh

    def told(self, step: int) -> None:
        """Step `step` and all before it are told."""
        self._told = step
