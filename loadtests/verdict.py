"""A promise about speed, what came of it, and whether it was kept."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Verdict:
    """`value` is to be at least `goal`, or at most; without a goal it is there to be known."""

    promise: str
    value: float
    goal: float | None = None
    at_most: bool = False

    @property
    def kept(self) -> bool | None:
        """None without a goal; False also for a figure that could not be measured."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def ratio(value: float, reference: float) -> float:
    """`value` in parts of `reference`; not a number where there is nothing to compare with."""
    return value / reference if reference else math.nan


def verdicts_json(judged: Sequence[Verdict]) -> list[dict[str, Any]]:
    """For a results file."""
    return [asdict(verdict) | {"kept": verdict.kept} for verdict in judged]


def verdicts_table(judged: Sequence[Verdict]) -> Table:
    """For a terminal."""
    shown = Table(title="What was promised")
    shown.add_column("promise")
    shown.add_column("goal", justify="right")
    shown.add_column("measured", justify="right")
    for verdict in judged:
        color = {True: "green", False: "red", None: "dim"}[verdict.kept]
        sign = "≤" if verdict.at_most else "≥"
        goal = "" if verdict.goal is None else f"{sign} {verdict.goal:g}"
        shown.add_row(verdict.promise, goal, f"[{color}]{verdict.value:.2f}[/]")
    return shown
